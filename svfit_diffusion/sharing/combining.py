"""Several concepts of one base as one: a weighted sum of their deltas, and of their common vectors.

    sum of w_j U diag(delta_j) V^T = U diag(sum of w_j delta_j) V^T

so the combined concept has the same effect as all of them loaded together at these strengths. The
sums are in float32. Learned triggers are stored side by side, each with its weight.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..adapter import Projection, layout
from ..concept import Concept, Trigger, printable
from ..families import recognise
from ..pipeline import base_fields, check_layout, check_strength, trigger_clash, with_self_check
from .words import MAX_WORD, check_new_word


def combine(
    concepts: Sequence[tuple[Concept, float]],
    words: Sequence[str] | None = None,
    pipe: Any | None = None,
) -> Concept:
    """One concept from (concept, weight) pairs of one base.

    words: another trigger for each, needed if two have the same. pipe: the base, needed if the
    concepts have different projections or ranks, or are files of version 1. Raises ValueError for
    concepts that cannot be combined.
    """
    if len(concepts) < 2:
        raise ValueError("combining needs at least two concepts; name another file.")
    for _, weight in concepts:
        check_strength(weight)
    _check_bases([concept for concept, _ in concepts])
    calls = _calls(concepts, words)
    first, common = concepts[0][0], _common(concepts)
    layouts = {(c.layout, c.ranks, tuple(sorted(c.targets.items()))) for c, _ in concepts}
    if pipe is None and (len(layouts) > 1 or not all(c.check for c, _ in concepts)):
        what = (
            "have different projections or ranks"
            if len(layouts) > 1
            else "have version 1, without a self-check"
        )
        raise ValueError(
            f"these concepts {what}, so the base is needed to combine them; pass it as --base "
            f"(pipe=...): {printable(first.base, 60)!r}."
        )
    if pipe is None:
        deltas = sum(weight * concept.deltas.astype(np.float64) for concept, weight in concepts)
        check = sum(weight * np.array(concept.check) for concept, weight in concepts)
        values = {
            "deltas": deltas.astype(np.float32),
            "common": common,
            "packed": False,
            "packed_words": False,
            "check": tuple(check.tolist()),
        }
        return replace(
            first,
            **values,
            **_text(concepts),
            **(outputs := _outputs(concepts)),
            **trigger_fields(calls, outputs["outputs"]),
        )
    return _on_base(concepts, calls, pipe, common)


def _common(concepts: Sequence[tuple[Concept, float]]) -> np.ndarray | None:
    """The weighted sum of the common vectors, of those that have one."""
    held = [(concept.common, weight) for concept, weight in concepts if concept.common is not None]
    if len({len(common) for common, _ in held}) > 1:
        sizes = " and ".join(str(len(common)) for common, _ in held)
        raise ValueError(
            f"these concepts have common vectors of {sizes} numbers, which one file cannot hold; "
            "load them side by side instead."
        )
    total = sum(weight * common.astype(np.float64) for common, weight in held)
    return total.astype(np.float32) if held else None


def _check_reach(concept: Concept, plan: Sequence[Projection], ranks: Mapping[str, int]) -> None:
    """ValueError where a concept's common vector would act in more directions than its own.

    ranks: canonical name -> rank, of the denoiser's projections in the combined concept.
    """
    own = {p.name: r for p, r in zip(plan, concept.ranks, strict=True)}
    if concept.common is not None and any(own.get(name) != rank for name, rank in ranks.items()):
        raise ValueError(
            f"{printable(concept.trigger, 60)!r} has a common vector, which acts in all directions "
            "of a file, and another of these concepts has others in the denoiser; load them side "
            "by side instead."
        )


def _on_base(
    concepts: Sequence[tuple[Concept, float]],
    calls: list[Trigger],
    pipe: Any,
    common: np.ndarray | None,
) -> Concept:
    """Combine by projection names: every projection of any concept, at its largest rank."""
    family, first = recognise(pipe), concepts[0][0]
    models = family.components(pipe)
    deltas: dict[str, np.ndarray] = {}
    targets: dict[str, str] = {}
    plans: list[list[Projection]] = []
    for concept, weight in concepts:
        if missing := sorted(set(concept.targets) - set(models)):
            raise ValueError(f"the base has no {missing[0]!r}, but a concept edits it.")
        plan = check_layout(concept, models)
        plans.append(plan)
        parts = np.split(concept.deltas.astype(np.float64), np.cumsum(concept.ranks)[:-1])
        for projection, delta in zip(plan, parts, strict=True):
            old = deltas.get(projection.name, np.zeros(0))
            total = np.zeros(max(len(old), len(delta)))
            total[: len(old)] += old
            total[: len(delta)] += weight * delta
            deltas[projection.name] = total
        for part, kind in concept.targets.items():
            kinds = frozenset({kind, targets.get(part, kind)})
            targets[part] = kind if len(kinds) == 1 else "both"
    plan = layout(models, targets)
    found = [deltas.get(p.name, np.zeros(1)) for p in plan]
    ranks = tuple(len(delta) for delta in found)
    denoiser = {p.name: r for p, r in zip(plan, ranks, strict=True) if p.part == family.denoiser}
    for (concept, _), held in zip(concepts, plans, strict=True):
        _check_reach(concept, held, denoiser)
    own = base_fields({part: models[part] for part in targets}, targets, family, plan, ranks)
    stated = {part: c.fingerprints[part] for c, _ in concepts for part in c.targets}
    if own["fingerprints"] != stated:
        raise ValueError(
            f"the base given is not {printable(first.base, 60)!r}, which the concepts belong to."
        )
    outputs = _outputs(concepts)
    text = _text(concepts) | outputs | {"rank": str(max(ranks))}
    deltas = np.concatenate(found).astype(np.float32)
    values = {"deltas": deltas, "common": common, "packed": False, "packed_words": False}
    return with_self_check(
        replace(first, **own, **text, **trigger_fields(calls, outputs["outputs"]), **values),
        models,
        family,
    )


def _check_bases(concepts: Sequence[Concept]) -> None:
    prints: dict[str, str] = {}
    for concept in concepts:
        for part, value in concept.fingerprints.items():
            if concept.family != concepts[0].family or prints.setdefault(part, value) != value:
                one, two = (printable(c.base, 60) for c in (concepts[0], concept))
                raise ValueError(
                    f"these concepts belong to different bases, {one!r} and {two!r} (the {part}'s "
                    "weights differ); only concepts of one base can be combined."
                )


def _calls(concepts: Sequence[tuple[Concept, float]], words: Sequence[str] | None) -> list[Trigger]:
    """All triggers, their strengths multiplied by the weights."""
    if words is not None and len(words) != len(concepts):
        raise ValueError(f"{len(words)} words for {len(concepts)} concepts; pass one for each.")
    found: list[Trigger] = []
    for i, (concept, weight) in enumerate(concepts):
        own = concept.all_triggers()
        if words is not None:
            own = _renamed(own, words[i])
        if word := trigger_clash(own, tuple(found)):
            raise ValueError(
                f"two of these concepts are called by {printable(word, 60)!r} and at least one of "
                "them learned it; give them other words with --words, such as --words sks zwx."
            )
        held = {call.word.lower() for call in found}
        found += [
            replace(call, strength=weight * call.strength)
            for call in own
            if call.word and call.word.lower() not in held
        ]
    return sorted(found, key=lambda call: call.word)


def _renamed(own: tuple[Trigger, ...], word: str) -> tuple[Trigger, ...]:
    """A concept's only trigger, called by a word; ValueError where it cannot be."""
    if len(own) != 1 and word in {call.word for call in own}:
        return own
    if len(own) != 1:
        known = ", ".join(printable(repr(call.word), MAX_WORD) for call in own)
        raise ValueError(
            f"one concept is called by {known}; pass one of them for it, or give each another word "
            "by `svfit rename` first."
        )
    (call,) = own
    if word == call.word:
        return own
    check_new_word(call, word, "give the other concept another one")
    return (replace(call, word=word),)


def trigger_fields(calls: list[Trigger], outputs: Container[str]) -> dict[str, Any]:
    """The fields of a Concept for the triggers.

    outputs: the text encoders whose rows are vectors in their output.
    """
    learned = [call for call in calls if call.rows]
    encoders = {frozenset(call.rows) for call in learned}
    if len(encoders) > 1:
        raise ValueError(
            "these concepts learned their triggers in different text encoders, which one file "
            "cannot store; load them side by side instead."
        )
    parts = sorted(next(iter(encoders), ()))
    plain = len(calls) == 1 and calls[0].strength == 1
    learned = learned if plain else [_even(call, outputs) for call in learned]
    rows = {part: np.concatenate([call.rows[part] for call in learned]) for part in parts}
    tokens = {call.word: len(next(iter(call.rows.values()))) for call in learned}

    def told(call: Trigger) -> tuple[str, int, float]:
        return call.class_word, tokens.get(call.word, 0), call.strength

    return {
        "token": calls[0].word if calls else "",
        "class_word": calls[0].class_word if calls else "",
        "triggers": {}
        if plain
        else {
            call.word: (call.class_word, tokens.get(call.word, 0), call.strength) for call in calls
        },
        "trigger_shape": {part: value.shape for part, value in rows.items()},
        "trigger_rows": np.concatenate([rows[p].ravel() for p in parts]) if parts else None,
    }


def _even(call: Trigger, outputs: Container[str]) -> Trigger:
    """A word with as many rows in each text encoder: the last vector in an output stands for all
    further tokens, so that to repeat it changes nothing.
    """
    most = max(map(len, call.rows.values()))
    if any(len(rows) < most and part not in outputs for part, rows in call.rows.items()):
        raise ValueError(
            f"{printable(call.word, 60)!r} has other numbers of rows in different text encoders, "
            "which a file of several words cannot hold; load the concepts side by side instead."
        )
    rows = {
        part: np.concatenate([rows, np.repeat(rows[-1:], most - len(rows), 0)])
        for part, rows in call.rows.items()
    }
    return replace(call, rows=rows)


def _outputs(concepts: Sequence[tuple[Concept, float]]) -> dict[str, Any]:
    """Where words are added to outputs, which is the same for all that learned one."""
    return {"outputs": {p: layers for c, _ in concepts for p, layers in c.outputs.items()}}


def _text(concepts: Sequence[tuple[Concept, float]]) -> Mapping[str, Any]:
    listed = ", ".join(f"{concept.trigger}:{weight:g}" for concept, weight in concepts)
    licences = dict.fromkeys(concept.license for concept, _ in concepts)
    return {
        "license": " and ".join(licences) if all(licences) else "",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "training": {"combined": listed[:500]},
    }
