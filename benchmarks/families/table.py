"""The true configurations of published bases, and the size of a concept for each at rank 16.

Writes each as a diffusers folder without weights and counts it as `svfit info --base FOLDER` does.
The last entry of each is its source; "from memory" means the published config.json as generally
known, which only the number of weights confirms.

    python -m benchmarks.families.table [--rank 16] [--write FOLDER]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from svfit_diffusion.pipeline.concept_size import ConceptSize, estimate_size
from svfit_diffusion.settings import RANK, TrainConfig

CLIP_L = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 77, "projection_dim": 768,
}  # fmt: skip
CLIP_H = CLIP_L | {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16,
}  # fmt: skip
CLIP_G = CLIP_L | {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "projection_dim": 1280,
}  # fmt: skip
SD15 = {
    "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
}  # fmt: skip
SD21 = SD15 | {
    "sample_size": 96, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}  # fmt: skip
SDXL = {
    "sample_size": 128, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
    "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True,
}  # fmt: skip
SD3 = {
    "sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64,
    "caption_projection_dim": 1536, "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "pos_embed_max_size": 192,
}  # fmt: skip
SD35_LARGE = SD3 | {
    "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}  # fmt: skip
SD35_MEDIUM = SD3 | {
    "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
}  # fmt: skip
KLEIN_4B = {
    "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
    "joint_attention_dim": 7680, "guidance_embeds": False,
}  # fmt: skip
KLEIN_9B = KLEIN_4B | {
    "num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32,
    "joint_attention_dim": 12288,
}  # fmt: skip
HIDREAM_I1 = {
    "in_channels": 16, "patch_size": 2, "caption_channels": (4096, 4096),
    "axes_dims_rope": (64, 32, 32), "llama_layers": (*range(32), *(31,) * 16),
}  # fmt: skip
AURAFLOW = {"pos_embed_max_size": 9216}
PIXART = {"caption_channels": 4096, "use_additional_conditions": False}
COGVIEW4 = {"num_layers": 28, "attention_head_dim": 128, "num_attention_heads": 32}
LUMINA2 = {"cap_feat_dim": 2304}

UNET, TEXT = ("diffusers", "UNet2DConditionModel"), ("transformers", "CLIPTextModel")
TEXT_2 = ("transformers", "CLIPTextModelWithProjection")
MMDIT, FLUX = ("diffusers", "SD3Transformer2DModel"), ("diffusers", "FluxTransformer2DModel")
FLUX2 = ("diffusers", "Flux2Transformer2DModel")
ZIMAGE = ("diffusers", "ZImageTransformer2DModel")
QWEN = ("diffusers", "QwenImageTransformer2DModel")
KREA2 = ("diffusers", "Krea2Transformer2DModel")
CHROMA = ("diffusers", "ChromaTransformer2DModel")
HIDREAM = ("diffusers", "HiDreamImageTransformer2DModel")
XL_TEXT = {"text_encoder": (TEXT, CLIP_L), "text_encoder_2": (TEXT_2, CLIP_G)}
T5 = (("transformers", "T5EncoderModel"), {"d_model": 4096})
SD3_TEXT = {"text_encoder": (TEXT_2, CLIP_L), "text_encoder_2": (TEXT_2, CLIP_G),
            "text_encoder_3": T5}  # fmt: skip
QWEN3_4B = (("transformers", "Qwen3ForCausalLM"), {"hidden_size": 2560})
QWEN3_8B = (("transformers", "Qwen3ForCausalLM"), {"hidden_size": 4096})
MISTRAL3 = (("transformers", "Mistral3ForConditionalGeneration"),
            {"text_config": {"model_type": "mistral", "hidden_size": 5120}})  # fmt: skip
QWEN_VL = (("transformers", "Qwen2_5_VLForConditionalGeneration"),
           {"text_config": {"hidden_size": 3584}})  # fmt: skip
QWEN3_VL_4B = (("transformers", "Qwen3VLModel"), {"text_config": {"hidden_size": 2560}})
QWEN3_VL_8B = (("transformers", "Qwen3VLModel"), {"text_config": {"hidden_size": 4096}})
LLAMA_8B = (("transformers", "LlamaForCausalLM"), {"hidden_size": 4096})
GEMMA2_2B = (("transformers", "Gemma2Model"), {"hidden_size": 2304})
GLM_9B = (("transformers", "GlmModel"), {"hidden_size": 4096})
UMT5_XL = (("transformers", "UMT5EncoderModel"), {"d_model": 2048})

# name: (pipeline, component: (class, configuration), where the denoiser's numbers come from)
BASES = {
    "Stable Diffusion 1.5": ("StableDiffusionPipeline", {
        "unet": (UNET, SD15), "text_encoder": (TEXT, CLIP_L)}, "from memory"),
    "Stable Diffusion 2.1": ("StableDiffusionPipeline", {
        "unet": (UNET, SD21), "text_encoder": (TEXT, CLIP_H)}, "from memory"),
    "SDXL 1.0": ("StableDiffusionXLPipeline", {"unet": (UNET, SDXL), **XL_TEXT}, "from memory"),
    "SD 3 medium": ("StableDiffusion3Pipeline", {
        "transformer": (MMDIT, SD3), **SD3_TEXT}, "from memory"),
    "SD 3.5 medium": ("StableDiffusion3Pipeline", {
        "transformer": (MMDIT, SD35_MEDIUM), **SD3_TEXT}, "from memory"),
    "SD 3.5 large": ("StableDiffusion3Pipeline", {
        "transformer": (MMDIT, SD35_LARGE), **SD3_TEXT}, "from memory"),
    "FLUX.1 dev": ("FluxPipeline", {
        "transformer": (FLUX, {"guidance_embeds": True}), "text_encoder": (TEXT, CLIP_L),
        "text_encoder_2": T5},
        "the class's defaults"),
    "FLUX.2 klein 4B": ("Flux2KleinPipeline", {
        "transformer": (FLUX2, KLEIN_4B), "text_encoder": QWEN3_4B},
                        "diffusers' convert_flux2_to_diffusers.py"),
    "FLUX.2 klein 9B": ("Flux2KleinPipeline", {
        "transformer": (FLUX2, KLEIN_9B), "text_encoder": QWEN3_8B},
                        "diffusers' convert_flux2_to_diffusers.py"),
    "Z-Image": ("ZImagePipeline", {
        "transformer": (ZIMAGE, {}), "text_encoder": QWEN3_4B}, "the class's defaults"),
    "FLUX.2 dev": ("Flux2Pipeline", {
        "transformer": (FLUX2, {}), "text_encoder": MISTRAL3}, "the class's defaults"),
    "Qwen-Image": ("QwenImagePipeline", {
        "transformer": (QWEN, {}), "text_encoder": QWEN_VL}, "the class's defaults"),
    "Krea 2": ("Krea2Pipeline", {
        "transformer": (KREA2, {}), "text_encoder": QWEN3_VL_4B}, "the class's defaults"),
    "Chroma": ("ChromaPipeline", {
        "transformer": (CHROMA, {}), "text_encoder": T5}, "the class's defaults"),
    "HiDream-I1": ("HiDreamImagePipeline", {
        "transformer": (HIDREAM, HIDREAM_I1), "text_encoder_3": T5, "text_encoder_4": LLAMA_8B},
        "the class's defaults, and from memory"),
    "Lumina-Image 2.0": ("Lumina2Pipeline", {
        "transformer": (("diffusers", "Lumina2Transformer2DModel"), LUMINA2),
        "text_encoder": GEMMA2_2B},
        "the class's defaults, and from memory"),
    "Sana 1.6B": ("SanaPipeline", {
        "transformer": (("diffusers", "SanaTransformer2DModel"), {}),
        "text_encoder": GEMMA2_2B}, "the class's defaults"),
    "Ideogram 4": ("Ideogram4Pipeline", {
        "transformer": (("diffusers", "Ideogram4Transformer2DModel"), {}),
        "text_encoder": QWEN3_VL_8B}, "the class's defaults"),
    "CogView4": ("CogView4Pipeline", {
        "transformer": (("diffusers", "CogView4Transformer2DModel"), COGVIEW4),
        "text_encoder": GLM_9B},
        "the class's defaults, and from memory"),
    "PixArt-Sigma": ("PixArtSigmaPipeline", {
        "transformer": (("diffusers", "PixArtTransformer2DModel"), PIXART), "text_encoder": T5},
        "the class's defaults, and from memory"),
    "AuraFlow 0.3": ("AuraFlowPipeline", {
        "transformer": (("diffusers", "AuraFlowTransformer2DModel"), AURAFLOW),
        "text_encoder": UMT5_XL},
        "the class's defaults, and from memory"),
}  # fmt: skip


def write(name: str, folder: Path) -> Path:
    """Write a base's configuration as a diffusers folder without weights."""
    pipeline, parts, _ = BASES[name]
    folder.mkdir(parents=True, exist_ok=True)
    index = {"_class_name": pipeline} | {part: kind for part, (kind, _) in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index))
    for part, (_, settings) in parts.items():
        (folder / part).mkdir(exist_ok=True)
        (folder / part / "config.json").write_text(json.dumps(settings))
    return folder


def row(name: str, found: ConceptSize) -> str:
    """A base's row: its concept, and the memory of its denoiser in 16 bits and of its basis."""
    denoiser, *text = found.projections.values()
    projections = f"{denoiser} + {sum(text)}" if text else denoiser
    weights = next(iter(found.weights.values()))
    word = f" {found.trigger:,}" if found.trigger else ""
    basis = f"{found.basis / 1e6:.0f} MB | {found.memory.alone / 1e9:.1f} GB"
    return (
        f"| {name} | {weights / 1e9:.2f} billion | {projections} | {found.values:,} |{word} "
        f"| {found.bytes:,} bytes | {2 * weights / 1e9:.1f} GB | {basis} |"
    )


def main() -> None:
    """Print the table of docs/bases.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", default=RANK)
    parser.add_argument("--write", type=Path, help="keep the configurations in this folder")
    given = parser.parse_args()
    root = given.write or Path(tempfile.mkdtemp())
    print(
        "| base | denoiser | projections | values | word | file | memory of the denoiser ", end=""
    )
    print("| basis, cached | to compute it | numbers |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    plan = TrainConfig(rank=given.rank)
    for name, (_, _, source) in BASES.items():
        folder = str(write(name, root / name.lower().replace(" ", "-")))
        found = estimate_size(folder, plan)
        print(f"{row(name, found)} {source} |")


if __name__ == "__main__":
    main()
