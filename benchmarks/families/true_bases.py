"""Published bases in their true size and layout, with random weights, as diffusers folders.

They say nothing about likeness; sizes, memory and the code that runs are those of the real bases.
The configurations are those of table.py; the attention projections get a decaying spectrum.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from transformers import CLIPTextConfig, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from benchmarks.families.table import BASES
from svfit_diffusion.adapter.attention import find_projections
from svfit_diffusion.families import family_named

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
XL_VAE = VAE | {"sample_size": 1024, "scaling_factor": 0.13025}
FLUX_VAE = XL_VAE | {
    "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159,
    "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip
NOISE = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
}  # fmt: skip
T5_XXL = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
    "num_heads": 64, "feed_forward_proj": "gated-gelu",
}  # fmt: skip


def scheduler_of(name: str) -> diffusers.SchedulerMixin:
    """The scheduler that a base is published with."""
    if name.startswith("FLUX"):
        return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    if name.startswith("SDXL"):
        return diffusers.EulerDiscreteScheduler(**NOISE)
    return diffusers.PNDMScheduler(skip_prk_steps=True, **NOISE)


def clip_tokenizer() -> CLIPTokenizer:
    """A tokenizer of the true size; its tokens are single letters and placeholders."""
    letters = string.ascii_lowercase + string.digits + "<>-.,"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [f"[{i}]" for i in range(49406 - len(tokens))]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def t5_tokenizer() -> T5TokenizerFast:
    """A T5 tokenizer whose tokens are single letters."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in string.printable.strip()]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def model(library: str, kind: str, settings: dict) -> torch.nn.Module:
    """A denoiser, or a text encoder, with random weights."""
    if library == "diffusers":
        return getattr(diffusers, kind)(**settings)
    made = getattr(transformers, kind)
    clip = made.config_class is CLIPTextConfig
    ends = {"bos_token_id": 49406, "eos_token_id": 49407} if clip else {}
    return made(made.config_class(**settings | ends))


def build(name: str, folder: Path, device: str = "cpu") -> None:
    """Write a base (Stable Diffusion, SDXL or FLUX.1, by its name in table.py) in the precision
    that it is published in. device: of the random numbers; a GPU makes billions in seconds.
    """
    torch.manual_seed(0)
    kind, parts, _ = BASES[name]
    dtype, flux = getattr(torch, family_named(kind).dtype), name.startswith("FLUX")
    vae = FLUX_VAE if flux else XL_VAE if name.startswith("SDXL") else VAE
    made: dict[str, Any] = {"scheduler": scheduler_of(name)}
    with torch.device(device):
        made["vae"] = diffusers.AutoencoderKL(**vae).to(dtype)
        for part, (made_by, settings) in parts.items():
            made[part] = model(*made_by, settings)
            for projection in find_projections(made[part]):
                decay(made[part].get_submodule(projection).weight)
            made[part].to(dtype)
            if part.startswith("text_encoder"):
                made[part.replace("text_encoder", "tokenizer")] = clip_tokenizer()
        if flux:
            made["text_encoder_2"] = T5EncoderModel(T5Config(**T5_XXL)).to(dtype)
            made["tokenizer_2"] = t5_tokenizer()
    if kind == "StableDiffusionPipeline":
        made |= {"safety_checker": None, "feature_extractor": None, "image_encoder": None,
                 "requires_safety_checker": False}  # fmt: skip
    getattr(diffusers, kind)(**made).save_pretrained(folder)


@torch.no_grad()
def decay(weight: torch.Tensor) -> None:
    """Give a weight [out, in] a spectrum like a trained one's, about 1 / sqrt(k)."""
    inner = min(weight.shape)
    scale = torch.arange(1, inner + 1).rsqrt()
    random = (torch.randn(weight.shape[0], inner) * scale) @ torch.randn(inner, weight.shape[1])
    weight.copy_(random * (weight.norm() / random.norm()))
