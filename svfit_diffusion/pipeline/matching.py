"""Whether a concept fits a pipeline: base, projections, names; and how its deltas are laid out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..adapter import (
    Basis,
    Projection,
    SVFitConfig,
    check_table,
    find_projections,
    find_source,
    fingerprint,
    get_common,
    get_deltas,
    layout,
    measure,
    patch_attention,
    set_common,
    set_deltas,
)
from ..concept import Concept, layout_hash, printable
from ..families import Family, base_folder, base_name
from . import trigger
from .verification import basis_of, check_basis, without_basis_warning

log = logging.getLogger(__name__)
SHOWN = 60  # characters of a file's text in a sentence


def concept_fields(
    models: Mapping[str, nn.Module], targets: Mapping[str, str], family: Family, adapter: str
) -> dict[str, Any]:
    """The fields of a Concept that an adapter on these models gives, values in float32."""
    plan = layout(models, targets)
    deltas = {part: get_deltas(models[part], adapter) for part in targets}
    ordered = [deltas[p.part][p.local].numpy() for p in plan]
    ranks = tuple(len(delta) for delta in ordered)
    common = get_common(models[family.denoiser], adapter) if family.denoiser in targets else None
    return {
        "deltas": np.concatenate(ordered),
        "common": None if common is None else common.numpy(),
        **base_fields(models, targets, family, plan, ranks),
    }


def base_fields(
    models: Mapping[str, nn.Module],
    targets: Mapping[str, str],
    family: Family,
    plan: list[Projection],
    ranks: tuple[int, ...],
) -> dict[str, Any]:
    """The fields of a Concept that state which base and which projections it is of."""
    return {
        "ranks": ranks,
        "layout": _hash(plan, ranks),
        "targets": dict(targets),
        "fingerprints": {part: _fingerprint(models[part], family) for part in targets},
        "family": family.name,
    }


def split(concept: Concept, plan: list[Projection]) -> dict[str, dict[str, torch.Tensor]]:
    """Component -> projection (local name) -> delta [r], float32."""
    deltas = torch.from_numpy(concept.deltas.astype("float32")).split(list(concept.ranks))
    found: dict[str, dict[str, torch.Tensor]] = {part: {} for part in sorted(concept.targets)}
    for projection, delta in zip(plan, deltas, strict=True):
        found[projection.part][projection.local] = delta
    return found


def with_self_check(concept: Concept, models: Mapping[str, nn.Module], family: Family) -> Concept:
    """The concept with its self-check, by the models that it was made on."""
    plan = check_layout(concept, models)
    models = {part: models[part] for part in concept.targets}
    table = check_table(concept, plan, basis_of(plan, concept.ranks, models, family, {}))
    return replace(concept, check=measure(concept.edit_values, table))


def put_on(
    models: Mapping[str, nn.Module],
    concept: Concept,
    plan: list[Projection],
    name: str,
    family: Family,
    folders: Mapping[str, str],
) -> None:
    """Patch the models and write a concept's values, under the name of its adapter."""
    for part, deltas in split(concept, plan).items():
        ranks, folder = {local: len(delta) for local, delta in deltas.items()}, folders.get(part)
        common = concept.common if part == family.denoiser else None
        size = 0 if common is None else len(common)
        patch_ranks(models[part], ranks, name, concept.targets[part], family, folder, size)
        set_deltas(models[part], name, deltas)
        if common is not None:
            set_common(models[part], name, torch.from_numpy(common.astype("float32")))


def patch_ranks(
    model: nn.Module,
    ranks: Mapping[str, int],
    name: str,
    attention: str,
    family: Family,
    folder: str | None,
    common: int = 0,
) -> None:
    """Patch a model's attention under the name of an adapter.

    ranks: of each projection, by its local name. folder: of its basis, if not the model's own.
    common: size of its common vector.
    """
    usual = Counter(ranks.values()).most_common(1)[0][0]
    config = SVFitConfig(
        r=usual,
        rank_pattern={local: rank for local, rank in ranks.items() if rank != usual},
        common=common,
        base_dtype=family.dtype,
        basis_from=folder,
        inference_mode=True,
    )
    with without_basis_warning():
        patch_attention(model, config, name, attention)


def check_base(
    pipe: Any,
    family: Family,
    concept: Concept,
    basis_from: str | None,
    table: np.ndarray | None = None,
) -> tuple[dict[str, nn.Module], dict[str, str], list[Projection], np.ndarray]:
    """The components to edit, where their basis lies if not with the pipeline itself, the
    projections in the file's order, and the table of their self-check; ValueError where concept
    and pipeline do not belong together. table: that table, where it is known.

    Weights that do not come from the base's files may be the base's all the same, in another
    precision or in fewer bits: there the self-check decides, and its error is stated in a warning.
    """
    models, folders, plan, unknown = _match_base(pipe, family, concept, basis_from)
    if table is None or unknown:  # weights without a file may have changed since
        table = check_table(concept, plan, basis_of(plan, concept.ranks, models, family, folders))
    check_basis(concept, table, unknown)
    if basis_from:
        called, got = printable(concept.trigger, SHOWN), _base_of(pipe)
        log.warning("%s is applied to %s with the basis of %s.", called, got, basis_from)
    return models, folders, plan, table


def checked_bases(
    pipe: Any, family: Family, concept: Concept
) -> tuple[list[Projection], list[Basis]]:
    """The projections in the file's order and the basis of each, checked as by `check_base`."""
    models, folders, plan, unknown = _match_base(pipe, family, concept, None)
    bases = list(basis_of(plan, concept.ranks, models, family, folders))
    check_basis(concept, check_table(concept, plan, iter(bases)), unknown)
    return plan, bases


def _match_base(
    pipe: Any, family: Family, concept: Concept, basis_from: str | None
) -> tuple[dict[str, nn.Module], dict[str, str], list[Projection], list[str]]:
    """All of `check_base` but the self-check: the components to edit, the folders of their basis,
    the projections, and the components whose weights have no file that identifies them.
    """
    got, own = _base_of(pipe), printable(concept.base, SHOWN)
    if concept.family != family.name:
        raise ValueError(
            f"this concept was trained on {own!r} of family "
            f"{printable(concept.family, SHOWN)!r}, but the "
            f"pipeline is {got!r} of family {family.name!r}; load its own base."
        )
    models = family.components(pipe)
    if missing := sorted(set(concept.targets) - set(models)):
        raise ValueError(
            f"this concept edits {missing[0][:SHOWN]!r}, which the pipeline {got!r} was loaded "
            "without; load the whole pipeline."
        )
    models = {part: models[part] for part in concept.targets}
    folders, unknown = basis_folders(basis_from, models), []
    for part, model in models.items():
        if concept.fingerprints[part] != _fingerprint(model, family, folders.get(part)):
            source = find_source(model, find_projections(model), family.dtype, folders.get(part))
            if source.files or not concept.check or _fused(model):
                raise ValueError(_wrong_base(concept, part, model, got, basis_from))
            unknown.append(part)
    trigger.check_rows(pipe, family, concept)  # not before: a wrong base is what is wrong
    return models, folders, check_layout(concept, models), unknown


def _base_of(pipe: Any) -> str:
    """The name of a pipeline's base, to be printed."""
    return printable(base_name(str(getattr(pipe.config, "_name_or_path", ""))), SHOWN)


def _wrong_base(
    concept: Concept, part: str, model: nn.Module, got: str, basis_from: str | None
) -> str:
    own = printable(concept.base, SHOWN)
    if fused := _fused(model):
        return (
            f"{fused[0]!r} is fused into the {part} of the pipeline {got!r}, so that its base is "
            "not recognised; call unfuse_lora, load the concept, and fuse again."
        )
    if basis_from:
        return (
            f"this concept was trained on {own!r}, and the {part} of {basis_from!r} is "
            "not that base's; pass the base it was trained on as basis_from."
        )
    return (
        f"this concept was trained on {own!r}, but the {part} of the pipeline {got!r} has "
        f"other weights; load that base, or, if {got!r} is a fine-tuned version of it, pass "
        f"basis_from={own!r}."
    )


def _fused(model: nn.Module) -> list[str]:
    """Names of the adapters that are fused into a model's weights."""
    layers = (layer for layer in model.modules() if isinstance(layer, BaseTunerLayer))
    return sorted({name for layer in layers for name in layer.merged_adapters})


def basis_folders(basis_from: str | None, models: Mapping[str, nn.Module]) -> dict[str, str]:
    """Component -> the folder of its published weights in the base `basis_from`."""
    if not basis_from:
        return {}
    root = base_folder(basis_from, tuple(models))
    return {part: str(root / part) for part in models}


def check_layout(concept: Concept, models: Mapping[str, nn.Module]) -> list[Projection]:
    """The projections in the file's order; ValueError when they are not those of the file."""
    plan = layout(models, concept.targets)
    if len(plan) != len(concept.ranks) or concept.layout != _hash(plan, concept.ranks):
        raise ValueError(
            f"this concept's {len(concept.ranks)} projections are not those of the pipeline, which "
            f"has {len(plan)}; it was trained on {printable(concept.base, SHOWN)!r}."
        )
    return plan


def _hash(plan: list[Projection], ranks: tuple[int, ...]) -> str:
    sizes = zip(plan, ranks, strict=True)
    return layout_hash((p.name, p.out_features, p.in_features, r) for p, r in sizes)


def _fingerprint(model: nn.Module, family: Family, folder: str | None = None) -> str:
    return fingerprint(model, find_projections(model), family.dtype, folder)
