"""Concepts on a diffusers pipeline: load, weigh, swap, fuse, remove.

    load_concept(pipe, "rex.safetensors", strength=0.8)
    pipe("a photo of sks dog on the beach")

A concept is checked against the pipeline in full before anything of the pipeline is touched.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..adapter import SVFitLinear, layers, unpatch_attention
from ..concept import Concept, Trigger, locate, read_concept
from ..families import recognise
from . import trigger
from .matching import adapter_name, check_base, check_names, check_strength, put_on, trigger_words
from .verification import check_basis


@dataclass
class Loaded:
    """A concept as it is on a pipeline.

    words: each learned trigger -> names of its tokens, in order. ids: text encoder -> ids of all
    those tokens. token: the word given to load_concept in place of the concept's own. table: of the
    self-check [8, values], shared by all that fit. layers: the projections, in the file's order.
    """

    concept: Concept
    strength: float
    triggers: tuple[Trigger, ...]
    words: dict[str, list[str]] = field(default_factory=dict)
    ids: dict[str, list[int]] = field(default_factory=dict)
    token: str | None = None
    basis_from: str | None = None
    table: np.ndarray | None = None
    layers: list[SVFitLinear] = field(default_factory=list)

    def fits(self, new: Concept) -> bool:
        """Whether a concept can take this one's place, value for value."""
        keys = ("family", "targets", "fingerprints", "layout", "ranks")
        return all(getattr(self.concept, key) == getattr(new, key) for key in keys)


def loaded_concepts(pipe: Any) -> dict[str, Loaded]:
    """Name -> what is loaded under it; a view to read, not to change."""
    return pipe.__dict__.setdefault("_svfit_concepts", {})


def load_concept(
    pipe: Any,
    concept: Concept | str | Path,
    strength: float = 1.0,
    name: str | None = None,
    token: str | None = None,
    basis_from: str | None = None,
) -> str:
    """Put a concept on a pipeline and return its name there.

    concept: a file, a Hub id "user/name", or what read_concept gave.
    strength: 0 is the base, 1 as trained. name: by default the file's. token: another word to
    call it by, if its own is taken. basis_from: the base it was trained on, for a pipeline that is
    a fine-tuned derivative of that base: the edit is then that of the original base, as a LoRA's
    would be. Raises ValueError, with the pipeline untouched, when the two do not fit.
    """
    stem = Path(concept).stem if isinstance(concept, str | Path) else ""
    concept = concept if isinstance(concept, Concept) else read_concept(locate(concept))
    name = adapter_name(name or stem or concept.token or "concept")
    triggers = trigger_words(concept, token)
    check_strength(strength)
    check_names(loaded_concepts(pipe), name, triggers)
    family = recognise(pipe)
    unfuse_concepts(pipe)  # the base is known by its own weights
    alike = (e for e in loaded_concepts(pipe).values() if e.fits(concept))
    table = next((e.table for e in alike if e.basis_from == basis_from), None)
    models, folders, plan, table = check_base(pipe, family, concept, basis_from, table)
    entry = Loaded(concept, strength, triggers, token=token, basis_from=basis_from, table=table)
    try:
        put_on(models, concept, plan, name, family, folders)
        entry.layers = [models[p.part].get_submodule(p.local) for p in plan]
        if concept.learned:
            entry.words, entry.ids = trigger.register_tokens(pipe, family.encoders, triggers, {})
        loaded_concepts(pipe)[name] = entry
        _apply(pipe)
    except BaseException:
        _take_off(pipe, models, name, entry)
        raise
    return name


def set_concepts(pipe: Any, strengths: Mapping[str, float]) -> None:
    """Use the named concepts at these strengths, and no other that is loaded."""
    held = loaded_concepts(pipe)
    if unknown := sorted(set(strengths) - set(held)):
        known = ", ".join(sorted(held)) or "none"
        raise ValueError(f"no concept named {unknown[0]!r} is loaded; loaded are: {known}.")
    for value in strengths.values():
        check_strength(value)
    for name, entry in held.items():
        entry.strength = float(strengths.get(name, 0.0))
    _apply(pipe)


def swap_concept(pipe: Any, name: str, concept: Concept | str | Path, **options: Any) -> str:
    """Put another concept in the place of a loaded one, under its name and at its strength.

    Where both have the same layout the values are copied in place, and nothing is patched anew.
    options: those of load_concept. Raises ValueError, with the old one still there, when the new
    one does not fit.
    """
    old = _held(pipe, name)
    new = concept if isinstance(concept, Concept) else read_concept(locate(concept))
    if not old.fits(new) or options or old.basis_from or set(old.ids) != set(new.trigger_shape):
        return _replace(pipe, name, new, {"strength": old.strength} | options)
    triggers = trigger_words(new)
    check_names({k: v for k, v in loaded_concepts(pipe).items() if k != name}, name, triggers)
    family = recognise(pipe)
    trigger.check(pipe, family.encoders, new)
    check_basis(new, old.table)
    if any(layer.merged for layer in old.layers):
        unfuse_concepts(pipe)
    deltas = torch.from_numpy(new.deltas.astype("float32")).split(list(new.ranks))
    held = [layer.svfit_delta[name].data for layer in old.layers]
    torch._foreach_copy_(held, deltas)
    old.concept, old.triggers, old.token = new, triggers, None
    if new.learned:
        old.words, old.ids = trigger.register_tokens(pipe, family.encoders, triggers, old.ids)
        trigger.write_rows(pipe, family.encoders, triggers, old.strength, old.ids)
    return name


def _replace(pipe: Any, name: str, new: Concept, options: dict[str, Any]) -> str:
    """Swap by removing and loading; a concept that is refused leaves the old one as it was."""
    old = _held(pipe, name)
    unfuse_concepts(pipe)
    check_base(pipe, recognise(pipe), new, options.get("basis_from"))
    remove_concept(pipe, name)
    try:
        return load_concept(pipe, new, name=name, **options)
    except ValueError:
        load_concept(pipe, old.concept, old.strength, name, old.token, old.basis_from)
        raise


def remove_concept(pipe: Any, name: str) -> None:
    """Take a concept off; without any, the pipeline is the base again."""
    entry, family = _held(pipe, name), recognise(pipe)
    unfuse_concepts(pipe)
    _take_off(pipe, family.components(pipe), name, entry)


def fuse_concepts(pipe: Any) -> None:
    """Merge the loaded concepts at their strengths into the weights: generation costs nothing.

    ValueError, with all weights untouched, where one would not be finite.
    """
    fresh = [layer for layer in _all_layers(pipe) if not layer.merged]
    for layer in fresh:
        layer.check_merge()
    for layer in fresh:
        layer.merge()


def unfuse_concepts(pipe: Any) -> None:
    """Take fused concepts out of the weights again (to rounding)."""
    for layer in _all_layers(pipe):
        if layer.merged:
            layer.unmerge()


def convert_prompt(pipe: Any, prompt: Any) -> Any:
    """A prompt, or a list of them, with the triggers of active concepts as their tokens."""
    if isinstance(prompt, list | tuple):
        return [convert_prompt(pipe, p) for p in prompt]
    return trigger.put_tokens(prompt, active_tokens(pipe))


def active_tokens(pipe: Any) -> dict[str, str]:
    """Trigger -> its learned tokens, of the concepts that are in use."""
    active = (entry.words for entry in loaded_concepts(pipe).values() if entry.strength)
    return {word: " ".join(names) for words in active for word, names in words.items()}


def _apply(pipe: Any) -> None:
    """Bring the pipeline in line with the strengths of its concepts."""
    unfuse_concepts(pipe)
    held, family = loaded_concepts(pipe), recognise(pipe)
    active = [name for name, entry in held.items() if entry.strength]
    for layer in _all_layers(pipe):
        ours = [name for name in active if name in layer.svfit_delta]
        layer.set_adapter(ours, inference_mode=True)
        for name in ours:
            layer.set_scale(name, held[name].strength)
    for entry in held.values():
        trigger.write_rows(pipe, family.encoders, entry.triggers, entry.strength, entry.ids)
    if any(entry.words for entry in held.values()) and not pipe.__dict__.get("_svfit_hooked"):
        family.hook_prompts(pipe, functools.partial(convert_prompt, pipe))
        pipe.__dict__["_svfit_hooked"] = True


def _held(pipe: Any, name: str) -> Loaded:
    held = loaded_concepts(pipe)
    if name not in held:
        known = ", ".join(sorted(held)) or "none"
        raise ValueError(f"no concept named {name!r} is loaded; loaded are: {known}.")
    return held[name]


def _all_layers(pipe: Any) -> list[SVFitLinear]:
    return [x for m in recognise(pipe).components(pipe).values() for x in layers(m).values()]


def _take_off(pipe: Any, models: Mapping[str, nn.Module], name: str, entry: Loaded) -> None:
    for model in models.values():
        unpatch_attention(model, name)
    for part, ids in entry.ids.items():
        trigger.remove_rows(getattr(pipe, part), ids)
    loaded_concepts(pipe).pop(name, None)
    _apply(pipe)
