"""Names of projections in LoRA files, and where a projection lies in a fused weight.

    diffusers: unet.down_blocks.1...attn1.to_q             (the canonical name itself)
    kohya:     lora_unet_down_blocks_1_...attn1_to_q       (SD, SDXL: diffusers' path)
               lora_unet_double_blocks_0_img_attn_qkv      (others: the published checkpoint's path)

The published checkpoints of SD3, FLUX and Z-Image hold q, k and v (FLUX's single blocks the MLP's
input too) as one weight, one below the other; so their LoRAs in kohya's form do. The names are
those that ComfyUI's `comfy/lora.py` builds of a checkpoint's keys, and those of kohya's sd-scripts
(`networks/lora_flux.py`, `networks/lora_sd3.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..adapter import Projection

TEXT_PREFIXES: dict[str, dict[str, str]] = {  # of the families that kohya's form is written for
    "sd": {"text_encoder": "lora_te"},
    "sdxl": {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
    "sd3": {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
    "flux": {"text_encoder": "lora_te1"},
    "flux2": {},
    "flux2-klein": {},
    "z-image": {},
    "qwen-image": {},
    "chroma": {},
}
_BLOCK = r"transformer_blocks\.(\d+)\."
_FLUX = (
    (rf"single_{_BLOCK}attn\.to_([qkv])", "single_blocks_{0}_linear1"),
    (rf"{_BLOCK}attn\.to_([qkv])", "double_blocks_{0}_img_attn_qkv"),
    (rf"{_BLOCK}attn\.add_([qkv])_proj", "double_blocks_{0}_txt_attn_qkv"),
    (rf"{_BLOCK}attn\.to_out\.0", "double_blocks_{0}_img_attn_proj"),
    (rf"{_BLOCK}attn\.to_add_out", "double_blocks_{0}_txt_attn_proj"),
    (rf"single_{_BLOCK}attn\.to_qkv_mlp_proj", "single_blocks_{0}_linear1"),
    (rf"single_{_BLOCK}attn\.to_out", "single_blocks_{0}_linear2"),
)
PUBLISHED = {  # family -> the denoiser's path in diffusers -> its path in the published checkpoint
    "sd3": (
        (rf"{_BLOCK}attn\.to_([qkv])", "joint_blocks_{0}_x_block_attn_qkv"),
        (rf"{_BLOCK}attn\.add_([qkv])_proj", "joint_blocks_{0}_context_block_attn_qkv"),
        (rf"{_BLOCK}attn2\.to_([qkv])", "joint_blocks_{0}_x_block_attn2_qkv"),
        (rf"{_BLOCK}attn\.to_out\.0", "joint_blocks_{0}_x_block_attn_proj"),
        (rf"{_BLOCK}attn\.to_add_out", "joint_blocks_{0}_context_block_attn_proj"),
        (rf"{_BLOCK}attn2\.to_out\.0", "joint_blocks_{0}_x_block_attn2_proj"),
    ),
    "flux": _FLUX,
    "chroma": _FLUX,
    "flux2": _FLUX,
    "flux2-klein": _FLUX,
    "z-image": (
        (r"(\w+)\.(\d+)\.attention\.to_([qkv])", "{0}_{1}_attention_qkv"),
        (r"(\w+)\.(\d+)\.attention\.to_out\.0", "{0}_{1}_attention_out"),
    ),
}


@dataclass(frozen=True)
class Place:
    """Where a projection lies in a LoRA file: the module's name, and the projection's first row in
    the module's weight, which has `rows` rows in all.
    """

    module: str
    start: int
    rows: int


def kohya_places(
    plan: Iterable[Projection], family: str, models: Mapping[str, nn.Module]
) -> list[Place]:
    """Where each projection lies in kohya's form. Raises ValueError for an unknown family."""
    if family not in TEXT_PREFIXES:
        known = ", ".join(TEXT_PREFIXES)
        raise ValueError(
            f"kohya's format can be written for the families {known}, not {family[:60]!r}; pass "
            "--to diffusers."
        )
    return [_kohya_place(projection, family, models) for projection in plan]


def diffusers_places(plan: Iterable[Projection]) -> list[Place]:
    """Where each projection lies in diffusers' form: by itself, under its canonical name."""
    return [Place(projection.name, 0, projection.out_features) for projection in plan]


def _kohya_place(projection: Projection, family: str, models: Mapping[str, nn.Module]) -> Place:
    part, _, path = projection.name.partition(".")
    prefix = TEXT_PREFIXES[family].get(part, "lora_unet")
    for pattern, template in PUBLISHED.get(family, ()) if prefix == "lora_unet" else ():
        if found := re.fullmatch(pattern, path):
            module = f"lora_unet_{template.format(*found.groups())}"
            if "([qkv])" not in pattern:
                return Place(module, 0, projection.out_features)
            size, rows = projection.out_features, 3 * projection.out_features
            if module.endswith("linear1"):
                block = models[part].get_submodule(path.rpartition(".attn.")[0])
                rows += block.proj_mlp.out_features
            return Place(module, "qkv".index(found.groups()[-1]) * size, rows)
    return Place(f"{prefix}_{path.replace('.', '_')}", 0, projection.out_features)


def known_names(
    plan: list[Projection], family: str, modules: Iterable[str], models: Mapping[str, nn.Module]
) -> dict[str, list[tuple[Projection, Place]]]:
    """Module name of a LoRA file -> the projections of the plan that it holds, and where.

    Reads kohya's names where the family has them (also in the numbering of Stability's code:
    input_blocks_4_1), diffusers' of all ages, PEFT's, those of the published checkpoint
    (`diffusion_model.`), and paths in the denoiser without a prefix.
    """
    table: dict[str, list[tuple[Projection, Place]]] = {}
    prefixes = TEXT_PREFIXES.get(family, {})
    kohya = family in TEXT_PREFIXES
    places = kohya_places(plan, family, models) if kohya else diffusers_places(plan)
    for projection, fused in zip(plan, places, strict=True):
        part, _, path = projection.name.partition(".")
        table.setdefault(fused.module, []).append((projection, fused))
        alone = projection, Place("", 0, projection.out_features)
        names = {projection.name, f"{part}.{projection.local}", projection.name.removesuffix(".0")}
        if part in prefixes:
            starts = {prefixes[part], *(("lora_te",) if part == "text_encoder" else ())}
        else:
            starts = {"lora_unet", "lora_transformer", "lycoris"}
            names |= {projection.local, projection.local.removesuffix(".0")}
        names |= {f"{start}_{path.replace('.', '_')}" for start in starts}
        for name in names - {fused.module}:
            table[name] = [alone]
    found = {module: table[plain] for module in modules if (plain := _plain(module)) in table}
    unet = models.get("unet")
    for module, ours in _from_sgm(modules, unet).items() if unet is not None else ():
        if ours in table:
            found[module] = table[ours]
    return found


def _plain(module: str) -> str:
    """A module's name without what PEFT and older diffusers put around and between."""
    module = module.replace("base_model.model.", "", 1).replace(".processor.", ".")
    if module.startswith("diffusion_model."):
        return f"lora_unet_{module.removeprefix('diffusion_model.').replace('.', '_')}"
    return module


def _from_sgm(modules: Iterable[str], unet: Any) -> dict[str, str]:
    """Kohya's names in the numbering of Stability's code -> names in diffusers' numbering."""
    from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers

    starts = ("lora_unet_input_blocks", "lora_unet_middle_block", "lora_unet_output_blocks")
    keys = {f"{_plain(m)}.lora_down.weight": m for m in modules if _plain(m).startswith(starts)}
    try:
        mapped = _maybe_map_sgm_blocks_to_diffusers(dict(keys), unet.config) if keys else {}
    except (ValueError, IndexError, KeyError):
        return {}  # the numbers do not match this base
    found = {}
    for key, module in mapped.items():
        for theirs, ours in (("input", "down"), ("middle", "mid"), ("output", "up")):
            key = key.replace(f"lora_unet_{theirs}_block", f"lora_unet_{ours}_block")
        found[module] = key.removesuffix(".lora_down.weight")
    return found
