"""Concepts on a diffusers pipeline: load, weigh, swap, remove.

    load_concept(pipe, "rex.safetensors", strength=0.8)
    pipe("a photo of sks dog on the beach")

A concept is checked against the pipeline in full before anything of the pipeline is touched. What
is loaded lies in the pipeline's modules (attached.py), not in the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..adapter import remembering, tuner_layers, unpatch_attention
from ..concept import Concept, locate, read_concept
from ..families import Family, recognise
from . import trigger
from .activity import others_active, set_active, set_strengths
from .attached import Attached, Loaded, attach, check_whole, detach, loaded_concepts
from .fusing import unfuse_concepts
from .locking import one_at_a_time
from .matching import check_base, put_on
from .model_methods import install_methods, uninstall_methods
from .naming import adapter_name, check_names, check_strength, trigger_words
from .offloading import at_rest
from .verification import check_basis
from .word import heard_words, put_names


@one_at_a_time
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
    strength: 0 is the base, which reads the learned word as its class word, 1 as trained. name: by
    default the file's. token: another word to
    call it by, if its own is taken. basis_from: the base it was trained on, for a pipeline that is
    a fine-tuned derivative of that base: the edit is then that of the original base, as a LoRA's
    would be. Raises ValueError, with the pipeline untouched, when the two do not fit.
    """
    stem = Path(concept).stem if isinstance(concept, str | Path) else ""
    concept = concept if isinstance(concept, Concept) else read_concept(locate(concept))
    name = adapter_name(name or stem or concept.token or "concept")
    triggers = trigger_words(concept, token)
    strength = check_strength(strength)
    held, family = loaded_concepts(pipe), recognise(pipe)
    check_names(held, name, triggers)
    alike = (e.any for e in held.values() if e.fits(concept))
    table = next((e.table for e in alike if e.basis_from == basis_from), None)
    with at_rest(pipe), remembering():
        unfuse_concepts(pipe)
        models, folders, plan, table = check_base(pipe, family, concept, basis_from, table)
        active = _activity(pipe, family, held)
        try:
            put_on(models, concept, plan, name, family, folders)
            if concept.learned:
                trigger.teach_concept(pipe, family, name, triggers)
            entry = Attached(concept, triggers, token, basis_from, table, [], None)
            _remember(pipe, family, name, entry, plan)
            for part, model in family.holders(pipe).items():
                layers = tuner_layers(model).values()
                set_active(layers, [*active[part], name])
                set_strengths(layers, {name: strength})
        except BaseException:
            _take_off(pipe, family, name, active)
            raise
    return name


def _remember(pipe: Any, family: Family, name: str, entry: Attached, plan: list) -> None:
    """Let each model that the concept edits, or teaches a word, remember it."""
    models = family.holders(pipe)
    for part in sorted({*entry.concept.targets, *entry.concept.trigger_shape}):
        ours = [p.local for p in plan if p.part == part]
        layers = [_layer(models[part], local, name) for local in ours]
        place = ours[0] if ours else None
        one = Attached(**{**vars(entry), "layers": layers, "first": place})
        attach(models[part], name, one)
        install_methods(models[part])


def _layer(model: nn.Module, name: str, adapter: str) -> nn.Module:
    """The SVFit layer of a projection, perhaps inside other methods' layers; its values frozen."""
    layer = model.get_submodule(name)
    while not hasattr(layer, "svfit_delta"):
        layer = layer.base_layer
    layer.set_requires_grad(adapter, False)
    return layer


@one_at_a_time
def set_concepts(pipe: Any, strengths: Mapping[str, float]) -> None:
    """Use the named concepts at these strengths, and no other that is loaded.

    A concept at strength 0 is the limit of small strengths: its word reads as its class word. One
    that is not named leaves the pipeline as if it were not loaded.
    """
    held = loaded_concepts(pipe)
    for name in strengths:
        _held(held, name)
    wanted = {name: check_strength(value) for name, value in strengths.items()}
    for name in wanted:
        check_whole(pipe, held[name])
    if any(entry.merged for entry in held.values()):
        unfuse_concepts(pipe)
    for part, model in recognise(pipe).holders(pipe).items():
        on = [name for name, entry in held.items() if name in wanted and part in entry.parts]
        layers = tuner_layers(model).values()
        set_active(layers, [*others_active(layers, held), *on])
        set_strengths(layers, {name: wanted[name] for name in on})


@one_at_a_time
def swap_concept(pipe: Any, name: str, concept: Concept | str | Path, **options: Any) -> str:
    """Put another concept in the place of a loaded one, under its name and at its strength.

    Where both have the same layout the values are copied in place, and nothing is patched anew.
    options: those of load_concept. Raises ValueError, with the old one still there, when the new
    one does not fit.
    """
    held = loaded_concepts(pipe)
    old = _held(held, name)
    check_whole(pipe, old)
    new = concept if isinstance(concept, Concept) else read_concept(locate(concept))
    same_words = set(old.ids) == set(new.trigger_shape)
    if not old.fits(new) or options or old.any.basis_from or not same_words:
        return _replace(pipe, old, new, {"strength": old.strength} | options)
    triggers = trigger_words(new)
    check_names({k: v for k, v in held.items() if k != name}, name, triggers)
    family = recognise(pipe)
    trigger.check_rows(pipe, family, new)
    check_basis(new, old.any.table)
    with at_rest(pipe):
        if any(entry.merged for entry in held.values()):
            unfuse_concepts(pipe)
        deltas = torch.from_numpy(new.deltas.astype("float32")).split(list(new.ranks))
        with torch.no_grad():
            torch._foreach_copy_([layer.svfit_delta[name] for layer in old.layers], deltas)
            if new.common is not None:
                owner = next(layer for layer in old.layers if name in layer.svfit_common)
                common = torch.from_numpy(new.common.astype("float32"))
                owner.svfit_common[name].copy_(common)
        if new.learned:
            trigger.teach_concept(pipe, family, name, triggers)
        for entry in old.parts.values():
            entry.concept, entry.triggers, entry.token = new, triggers, None
    return name


def _replace(pipe: Any, old: Loaded, new: Concept, options: dict[str, Any]) -> str:
    """Swap by removing and loading; a concept that is refused leaves the old one as it was, and one
    that is out of use stays so.
    """
    unfuse_concepts(pipe)
    with at_rest(pipe):
        check_base(pipe, recognise(pipe), new, options.get("basis_from"))
    before = old.any.concept, old.strength, old.name, old.any.token, old.any.basis_from
    in_use = old.in_use
    remove_concept(pipe, old.name)
    try:
        return load_concept(pipe, new, name=old.name, **options)
    except ValueError:
        load_concept(pipe, *before)
        raise
    finally:
        if not in_use:
            _rest(pipe, old.name)


def _rest(pipe: Any, name: str) -> None:
    """Leave a loaded concept out of use, and all others as they are."""
    family, held = recognise(pipe), loaded_concepts(pipe)
    active = _activity(pipe, family, held)
    for part, model in family.holders(pipe).items():
        set_active(tuner_layers(model).values(), [other for other in active[part] if other != name])


@one_at_a_time
def remove_concept(pipe: Any, name: str) -> None:
    """Take a concept off; without any, the pipeline is the base again."""
    family, held = recognise(pipe), loaded_concepts(pipe)
    _held(held, name)
    with at_rest(pipe):
        unfuse_concepts(pipe)
        _take_off(pipe, family, name, _activity(pipe, family, held))


def convert_prompt(pipe: Any, prompt: Any) -> Any:
    """A prompt, or a list of them, with the triggers of active concepts as their tokens."""
    if isinstance(prompt, list | tuple):
        return [convert_prompt(pipe, p) for p in prompt]
    return put_names(prompt, active_tokens(pipe))


def active_tokens(pipe: Any) -> dict[str, str]:
    """Trigger -> its learned tokens, of the concepts that are in use."""
    readers = (getattr(pipe, name, None) for name, _ in recognise(pipe).encoders)
    words = (word for reader in readers if reader is not None for word in heard_words(reader))
    return {word.word: " ".join(word.names) for word in words}


def _held(held: Mapping[str, Loaded], name: str) -> Loaded:
    if name not in held:
        known = ", ".join(sorted(held)) or "none"
        raise ValueError(f"no concept named {name!r} is loaded; loaded are: {known}.")
    return held[name]


def _activity(pipe: Any, family: Family, held: Mapping[str, Loaded]) -> dict[str, list[str]]:
    """Component -> its active adapters: concepts that act there, and all others."""
    found = {}
    for part, model in family.holders(pipe).items():
        on = [name for name, entry in held.items() if entry.acts(part)]
        found[part] = [*others_active(tuner_layers(model).values(), held), *on]
    return found


def _take_off(pipe: Any, family: Family, name: str, active: Mapping[str, list[str]]) -> None:
    """Remove all of a concept that is there; what else was active stays so."""
    tokenizers = family.word_tokenizers(pipe)
    for part, model in family.holders(pipe).items():
        if part in tokenizers:
            trigger.forget(tokenizers[part], model, name)
        unpatch_attention(model, name)
        detach(model, name)
        layers = tuner_layers(model).values()
        set_active(layers, [other for other in active[part] if other != name])
        uninstall_methods(model)
