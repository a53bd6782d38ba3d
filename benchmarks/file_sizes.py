"""Bytes of a concept file on each base, by rank: true configurations, no weights needed.

The models are built on the meta device from their published configurations; the file is written
as a training writes it, with random deltas and one learned trigger token for each CLIP encoder.

    python benchmarks/file_sizes.py
"""

from __future__ import annotations

import json

import numpy as np
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from svfit_diffusion import toybox
from svfit_diffusion.attention import layout
from svfit_diffusion.concept import Concept, layout_hash, to_bytes

RANKS = (4, 16, 64, "full")
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
SD15 = {
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3 = {  # the medium model
    "num_layers": 24,
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
    "sample_size": 128,
}
FLUX = {  # dev
    "num_layers": 19,
    "num_single_layers": 38,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}


def bases() -> dict[str, dict]:
    """Base -> component -> model, all of them what a concept may edit (T5 is left alone)."""

    def text(config: dict, kind: type = CLIPTextModel):
        return kind(CLIPTextConfig(**config))

    folder = toybox.path()
    small = {p: json.loads((folder / p / "config.json").read_text()) for p in ("unet", TEXT)}
    with torch.device("meta"):
        second = text(CLIP_G, CLIPTextModelWithProjection)
        return {
            "Toybox": {
                "unet": UNet2DConditionModel.from_config(small["unet"]),
                TEXT: text(small[TEXT]),
            },
            "SD 1.5": {"unet": UNet2DConditionModel(**SD15), TEXT: text(CLIP_L)},
            "SDXL": {"unet": UNet2DConditionModel(**SDXL), TEXT: text(CLIP_L), SECOND: second},
            "SD3 medium": {
                "transformer": SD3Transformer2DModel(**SD3),
                TEXT: text(CLIP_L, CLIPTextModelWithProjection),
                SECOND: second,
            },
            "FLUX.1 dev": {"transformer": FluxTransformer2DModel(**FLUX), TEXT: text(CLIP_L)},
        }


TEXT, SECOND = "text_encoder", "text_encoder_2"


def written(models: dict, rank: int | str) -> tuple[int, int, int]:
    """(projections, deltas, bytes of the file) of a concept at a rank."""
    targets = {part: "self" if part.startswith(TEXT) else "both" for part in models}
    plan = layout(models, targets)
    most = [min(p.out_features, p.in_features) for p in plan]
    ranks = tuple(m if rank == "full" else min(rank, m) for m in most)
    widths = {p: m.config.hidden_size for p, m in models.items() if p.startswith(TEXT)}
    random = np.random.default_rng(0)
    concept = Concept(
        deltas=random.standard_normal(sum(ranks)).astype(np.float16),
        ranks=ranks,
        rank=str(rank),
        layout=layout_hash(
            (p.name, p.out_features, p.in_features, r) for p, r in zip(plan, ranks, strict=True)
        ),
        base="a-user-of-the-hub/the-name-of-a-base",
        family="sdxl",
        targets=targets,
        fingerprints=dict.fromkeys(targets, "0123456789abcdef" * 2),
        token="sks",
        class_word="dog",
        trigger_rows=random.standard_normal(sum(widths.values())).astype(np.float16),
        trigger_shape={part: (1, width) for part, width in widths.items()},
        training={"steps": 400, "batch": 4, "lr": 0.005, "photos": 5, "px": 512, "seed": 0},
        created="2026-01-02T03:04:05Z",
        check=tuple(random.standard_normal(8).astype(np.float32).tolist()),
    )
    return len(plan), sum(ranks), len(to_bytes(concept))


def main() -> None:
    """Print the table."""
    print("| base | projections | " + " | ".join(f"rank {r}" for r in RANKS) + " |")
    print("|---" * (len(RANKS) + 2) + "|")
    for name, models in bases().items():
        found = [written(models, rank) for rank in RANKS]
        cells = [f"{size:,}" for _, _, size in found]
        print(f"| {name} | {found[0][0]} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
