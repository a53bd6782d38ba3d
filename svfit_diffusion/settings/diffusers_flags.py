"""Flags of diffusers' DreamBooth scripts that are no settings here, so that a copied command runs.

Of train_dreambooth_lora.py and its siblings for other bases, and of the full fine-tuning scripts.
Those that mean the same here are settings of the same name. A flag of NOT_NEEDED is taken with its
sentence; one of REFUSED would train something else than it asks for. docs/flags.md is the table of
all.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from .config import GROUPS

_ENCODED = "photos are encoded once, before the first step"
_LORA = "the deltas have no such setting: what is trained follows --attention and --rank"
_PROMPTS = "prompts are read as the base's pipeline reads them"
_PRECISION = "the file's precision is that of --delta_bits"
_LLAMA = "HiDream's Llama is Meta's, unless the base's folder has one"
_SAMPLING = "previews take the usual steps and guidance of what generates them"
_EDITING = "concepts are trained on text to image, without a picture to edit"

NOT_NEEDED = {
    "cache_latents": _ENCODED,
    "dataloader_num_workers": _ENCODED,
    "pre_compute_text_embeddings": "what no step changes of a prompt is computed once",
    "use_8bit_adam": "8-bit optimizers keep tensors below 4,096 values in 32 bits, as all are here",
    "set_grads_to_none": "gradients are always set to None",
    "enable_xformers_memory_efficient_attention": "PyTorch's own attention saves the same memory",
    "enable_npu_flash_attention": "PyTorch's own attention is used",
    "tokenizer_max_length": _PROMPTS,
    "max_sequence_length": _PROMPTS,
    "text_encoder_use_attention_mask": _PROMPTS,
    "text_encoder_out_layers": _PROMPTS,
    "system_prompt": _PROMPTS,
    "complex_human_instruction": _PROMPTS,
    "pretrained_text_encoder_4_name_or_path": _LLAMA,
    "pretrained_tokenizer_4_name_or_path": _LLAMA,
    "tokenizer_name": "the base's own tokenizer is used",
    "pretrained_vae_model_name_or_path": "the VAE works in float32, so no repaired one is needed",
    "prior_generation_precision": "class images are generated in --mixed_precision",
    "image_interpolation_mode": "photos are scaled by Lanczos",
    "lora_alpha": _LORA,
    "lora_dropout": _LORA,
    "lora_layers": _LORA,
    "lora_blocks": _LORA,
    "use_dora": _LORA,
    "upcast_before_saving": _PRECISION,
    "skip_save_text_encoder": "the file holds what is trained alone; see --train_text_encoder",
    "output_kohya_format": "`svfit export --to kohya` writes one from the concept file",
    "bnb_quantization_config_path": "pass --quantize 4bit for a base in 4 bits",
    "do_fp8_training": "pass --quantize fp8 for a base in 8 bits",
    "fsdp_text_encoder": "pass --offload to keep text encoders out of the GPU's memory",
    "remote_text_encoder": "prompts are encoded on this machine; pass --offload to save memory",
    "precondition_outputs": "the loss is on the base's own target, which is the same up to weights",
    "skip_final_inference": "pictures are generated for --validation_prompt alone",
    "validation_scheduler": "previews use the base's own scheduler",
    "validation_num_inference_steps": _SAMPLING,
    "validation_guidance_scale": _SAMPLING,
    "enable_vae_tiling": "previews are decoded whole, one at a time",
    "vae_encode_mode": "photos are encoded as the family's text-to-image script does",
    "disable_training_autocast": "positions are computed in float32 under autocast, too",
    "prompt_enhancer_head_id": "captions are not rewritten",
    "caption_dropout": "a concept leaves the base's empty prompt as it is",
    "local_rank": "the launcher says it",
}
REFUSED = {
    "do_edm_style_training": "EDM's loss is not offered; train on a base with its own objective",
    "class_labels_conditioning": "bases with class labels (DeepFloyd IF) are not supported",
    "validation_images": "bases that take a picture (DeepFloyd IF) are not supported",
    "cond_image_column": _EDITING,
    "validation_image": _EDITING,
    "upsample_prompt": "captions are learned as they are; write what they should say",
}
RENAMED = {  # the setting that means the same, and what it is set to where the flag has no value
    "offset_noise": ("noise_offset", 0.1),
    "final_validation_prompt": ("validation_prompt", None),
    "validation_model_path": ("validation_base", None),
}
_SWITCHES = frozenset(
    (
        *("cache_latents", "pre_compute_text_embeddings", "use_8bit_adam", "set_grads_to_none"),
        *("enable_xformers_memory_efficient_attention", "enable_npu_flash_attention"),
        *("text_encoder_use_attention_mask", "use_dora", "upcast_before_saving", "offset_noise"),
        *("skip_save_text_encoder", "output_kohya_format", "do_fp8_training", "fsdp_text_encoder"),
        *("remote_text_encoder", "skip_final_inference", "do_edm_style_training"),
        *("enable_vae_tiling", "disable_training_autocast", "upsample_prompt"),
    )
)

_LISTS = ("validation_images", "text_encoder_out_layers")


def add_diffusers_flags(parser: argparse.ArgumentParser) -> None:
    """The flags, which --help does not list."""
    for name in (*NOT_NEEDED, *REFUSED, *RENAMED):
        options: dict[str, Any] = {"default": None, "help": argparse.SUPPRESS}
        if name in _SWITCHES:
            options["action"] = "store_true"
        else:
            options["nargs"] = "+" if name in _LISTS else None
        parser.add_argument(f"--{name}", **options)


def explain(arguments: argparse.Namespace) -> list[str]:
    """A sentence for each flag that was given and is not needed; ValueError for a refused one."""
    given = [name for name in (*REFUSED, *NOT_NEEDED) if getattr(arguments, name, None) is not None]
    for name in given:
        if name in REFUSED:
            raise ValueError(f"--{name} cannot be used: {REFUSED[name]}.")
    return [f"--{name} is not needed: {NOT_NEEDED[name]}." for name in given]


def renamed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings by the flags that have another name here."""
    found = {}
    for name, (setting, value) in RENAMED.items():
        if (given := getattr(arguments, name, None)) is not None:
            found[setting] = value if name in _SWITCHES else given
    return found


def flags_table(names: list[str]) -> str:
    """docs/flags.md's rows for flags of the scripts, by name: the flag, what it is here, why."""
    settings = {item.name: (group, item) for group in GROUPS for item in fields(group)}
    rows = ["| flag | here | why |", "|---|---|---|"]
    for name in names:
        if name in settings:
            group, item = settings[name]
            here, why = f"the same ({group.title})", item.metadata["help"]
        elif name in RENAMED:
            setting, value = RENAMED[name]
            here = f"`--{setting} {value}`" if value is not None else f"`--{setting}`"
            why = "its name here"
        else:
            here = "not needed" if name in NOT_NEEDED else "refused"
            why = NOT_NEEDED.get(name) or REFUSED[name]
        rows.append(f"| `--{name}` | {here} | {why.replace('|', '/')} |")
    return "\n".join(rows) + "\n"
