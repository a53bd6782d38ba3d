"""Where the projections of a concept lie in a ComfyUI model.

A projection is known by its canonical name, as diffusers and transformers call it; ComfyUI's own
tables give the key of its weight here. Where q, k and v share one weight, the address says which
rows of it:

    unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q
        -> diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight
    transformer.transformer_blocks.0.attn.to_k
        -> (diffusion_model.double_blocks.0.img_attn.qkv.weight, (0, 3072, 3072))
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_base
import comfy.supported_models
import comfy.utils

Address = str | tuple[str, tuple[int, int, int]]

DENOISER = {"sd": "unet", "sdxl": "unet"}  # of the other families: transformer
DTYPES = {"sd": "float16", "sdxl": "float16", "sd3": "float16"}  # of the others: bfloat16
ENCODERS = {  # family -> text encoder that a concept may edit -> ComfyUI's names for it
    "sd": {"text_encoder": ("clip_l", "clip_h")},
    "sdxl": {"text_encoder": ("clip_l",), "text_encoder_2": ("clip_g",)},
    "sd3": {"text_encoder": ("clip_l",), "text_encoder_2": ("clip_g",)},
    "flux": {"text_encoder": ("clip_l",)},
}
PROJECTIONS = (
    *("to_q", "to_k", "to_v", "to_out.0"),
    *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
    *("to_qkv_mlp_proj", "to_out"),  # FLUX.2's blocks of one stream
)
OPEN_CLIP_LAYERS = 23  # of SD 2's text encoder that are used; its checkpoints hold one more
_ATTENTION = re.compile(rf"(.+\.(?:attn\d?|attention))\.({'|'.join(map(re.escape, PROJECTIONS))})")
_TEXT = re.compile(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.(?:q|k|v|out)_proj")


@dataclass(frozen=True)
class Part:
    """A component that a concept may edit: its ComfyUI patcher, and projection -> address.

    Projections have their names within the component, as diffusers and transformers call them.
    encoder: ComfyUI's name of a text encoder, "" for the denoiser.
    """

    patcher: Any
    addresses: Mapping[str, Address]
    encoder: str = ""

    def names(self, attention: str) -> list[str]:
        """The projections of one kind of attention: "both", "self" or "cross"."""
        wanted = {"both": (False, True), "self": (False,), "cross": (True,)}[attention]
        return sorted(name for name in self.addresses if _is_cross(name) in wanted)


def family_of(model: Any) -> str:
    """The family of a loaded model (`MODEL.model`). Raises ValueError for one without concepts."""
    bases, kinds = comfy.model_base, comfy.supported_models
    config = model.model_config
    if isinstance(model, bases.SD3):
        return "sd3"
    if isinstance(model, bases.Flux2):
        return "flux2" if _guided(config.unet_config) else "flux2-klein"
    if isinstance(model, bases.Flux) and not isinstance(model, bases.Chroma):
        return "flux"
    if isinstance(config, kinds.ZImage):
        return "z-image"
    if isinstance(model, bases.SDXL):
        return "sdxl"
    if isinstance(config, kinds.SD15 | kinds.SD20):
        return "sd"
    raise ValueError(
        f"this model is of the kind {type(config).__name__}, for which there are no concepts; load "
        "Stable Diffusion 1, 2, XL or 3, FLUX or Z-Image."
    )


def _guided(config: Mapping[str, Any]) -> bool:
    """Whether FLUX.2 takes its guidance as an input, as dev does and klein does not."""
    return bool(config.get("guidance_embed"))


def parts_of(model: Any, clip: Any, family: str) -> dict[str, Part]:
    """Component -> its projections, of a MODEL and a CLIP; clip may be None."""
    addresses = attention_names(_table(model.model, family), family)
    held = model.model.state_dict()
    present = {name: at for name, at in addresses.items() if _key(at) in held}
    parts = {DENOISER.get(family, "transformer"): Part(model, present)}
    for part, names in ENCODERS.get(family, {}).items() if clip is not None else ():
        for name in names:
            if getattr(clip.cond_stage_model, name, None) is not None:
                parts[part] = Part(clip.patcher, _text_names(clip.cond_stage_model, name), name)
    return parts


def attention_names(table: Mapping[str, Any], family: str) -> dict[str, Address]:
    """Projection -> address, of a table of diffusers' names -> ComfyUI's keys, both with .weight.

    The FLUX tables may list the names of both generations: of the blocks of one stream, FLUX.2 has
    two projections where FLUX.1 has three.
    """
    found = {}
    for name, address in table.items():
        name = name.removesuffix(".weight")
        match = _ATTENTION.fullmatch(name)
        if match and not name.endswith(".bias"):
            fused = match[2] in ("to_qkv_mlp_proj", "to_out")
            single = name.startswith("single_transformer_blocks.")
            if not single or fused == family.startswith("flux2"):
                found[name] = address if isinstance(address, str) else tuple(address[:2])
    return found


def _table(model: Any, family: str) -> dict[str, Any]:
    """ComfyUI's own table: diffusers' name of each tensor -> its key in the model."""
    config, prefix = model.model_config.unet_config, "diffusion_model."
    if family in ("sd", "sdxl"):
        table = comfy.utils.unet_to_diffusers(config)
        return {name: f"{prefix}{key}" for name, key in table.items()}
    if family == "sd3":
        return comfy.utils.mmdit_to_diffusers(config, output_prefix=prefix)
    if family == "z-image":
        return comfy.utils.z_image_to_diffusers(config, output_prefix=prefix)
    table = comfy.utils.flux_to_diffusers(config, output_prefix=prefix)
    for i in range(config.get("depth_single_blocks", 0) if family != "flux" else 0):
        names, keys = f"single_transformer_blocks.{i}.attn", f"{prefix}single_blocks.{i}"
        table[f"{names}.to_qkv_mlp_proj.weight"] = f"{keys}.linear1.weight"
        table[f"{names}.to_out.weight"] = f"{keys}.linear2.weight"
    return table


def _text_names(encoders: Any, name: str) -> dict[str, Address]:
    """Projection -> key, of one CLIP text encoder."""
    start, found = f"{name}.transformer.", {}
    for key in encoders.state_dict():
        local = key.removeprefix(start).removesuffix(".weight")
        match = _TEXT.fullmatch(local) if key.startswith(start) else None
        if match and (name != "clip_h" or int(match[1]) < OPEN_CLIP_LAYERS):
            found[local] = key
    return found


def _is_cross(name: str) -> bool:
    """Whether it is of a UNet's second attention, which reads the text; others are self-attention.

    In SD3 `attn2` is a self-attention: its blocks stand at the top, a UNet's within `attentions`.
    """
    return ".attn2." in name and ".attentions." in name


def _key(address: Address) -> str:
    return address if isinstance(address, str) else address[0]
