"""Putting a concept on a MODEL and a CLIP of ComfyUI.

    W' = W + strength * U_r (V_r diag(delta) + M)^T

That is a LoRA with up = U_r and the other factor as down, so ComfyUI patches the weights by its own
means, at strengths that cost no new decomposition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from comfy.weight_adapter import LoRAAdapter

from svfit_diffusion.adapter import Basis, reading, used_directions, values_of
from svfit_diffusion.concept import Concept
from svfit_diffusion.pipeline import check_strength

from .fitting import (
    Edited,
    bases_in,
    check_basis,
    check_family,
    check_parts,
    origin_of,
    plan_of,
)
from .layout import DTYPES, Address, Part, parts_of
from .outputs import encoders_of, teach_outputs, without_unheard
from .words import check_words, teach


@dataclass(frozen=True)
class Strengths:
    """0 is the base, 1 as trained: of the MODEL's edit, of the CLIP's, and of the learned word."""

    model: float = 1.0
    clip: float = 1.0
    word: float = 1.0

    def __post_init__(self) -> None:
        for value in (self.model, self.clip, self.word):
            check_strength(value)


def apply_concept(
    concept: Concept,
    model: Any,
    clip: Any,
    strengths: Strengths,
    basis_model: Any = None,
    basis_clip: Any = None,
) -> tuple[Any, Any]:
    """A MODEL and a CLIP with the concept, as patched clones of those given; clip may be None.

    basis_model, basis_clip: the base that the concept was trained on, where the model is a
    fine-tuned version of it. Raises ValueError, in one sentence, where they do not fit together.
    """
    family = check_family(concept, model)
    spoken = encoders_of(concept, clip, family)
    concept = without_unheard(concept, spoken, clip)
    dtype, parts = DTYPES.get(family, "bfloat16"), parts_of(model, clip, family)
    check_parts(concept, parts, clip)
    theirs = parts
    if basis_model is not None or basis_clip is not None:
        published = model if basis_model is None else basis_model
        check_family(concept, published)
        theirs = parts_of(published, clip if basis_clip is None else basis_clip, family)
        check_parts(concept, theirs, clip)
    origins = {name: origin_of(concept, name, theirs[name], dtype) for name in concept.targets}
    check_words(clip, concept, parts)
    plan = plan_of(concept, parts)
    found = {name: bases_in(concept, name, origins[name], plan, dtype) for name in concept.targets}
    check_basis(concept, plan, found, [name for name in origins if origins[name].rounded])
    patches = _patches(concept, plan, parts, found)
    model = _patched(model, patches[False], strengths.model)
    if clip is not None:
        clip = _patched(clip, patches[True], strengths.clip)
        teach(clip, concept.all_triggers(), parts, strengths.word)
        teach_outputs(clip, concept.all_triggers(), spoken, strengths.word)
    return model, clip


def _patches(
    concept: Concept,
    plan: Sequence[Edited],
    parts: Mapping[str, Part],
    found: Mapping[str, Mapping[str, Basis]],
) -> dict[bool, dict[Address, LoRAAdapter]]:
    """Whether it is the CLIP's -> address of a weight -> its edit."""
    patches: dict[bool, dict[Address, LoRAAdapter]] = {False: {}, True: {}}
    values = values_of(concept, (edited.part for edited in plan))
    for edited, (delta, common) in zip(plan, values, strict=True):
        if delta.any() or common is not None:
            part, basis = parts[edited.part], found[edited.part][edited.local]
            columns = used_directions(delta, common)
            down = reading(edited.local, basis, delta, common)[:, columns].T.contiguous()
            up = basis.U[:, columns].contiguous()
            adapter = LoRAAdapter(set(), (up, down, None, None, None, None))
            patches[bool(part.encoder)][part.addresses[edited.local]] = adapter
    return patches


def _patched(held: Any, patches: Mapping[Address, LoRAAdapter], strength: float) -> Any:
    """A clone of a MODEL or CLIP with all patches."""
    clone = held.clone()
    taken = clone.add_patches(dict(patches), strength)
    if len(taken) != len(patches):
        raise ValueError(
            f"ComfyUI took {len(taken)} of the concept's {len(patches)} edits; this version of it "
            "names weights otherwise, so update this node."
        )
    return clone
