"""Tiny bases in ComfyUI and in diffusers with the same weights, and the node in this process.

ComfyUI's classes are its own, with sizes of ours; what is copied are the attention projections and
the text encoders, by ComfyUI's own tables.
"""

import importlib.util
import os
import sys
from pathlib import Path

import torch

from helpers.tiny_families import TINY
from svfit_diffusion.adapter import find_projections
from svfit_diffusion.families import recognise

NODE = Path(__file__).parents[2] / "integrations" / "comfyui"
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32,
    "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1], "transformer_depth_middle": 1,
    "use_spatial_transformer": True, "use_temporal_attention": False, "legacy": False,
    "adm_in_channels": None, "use_linear_in_transformer": False,
}  # fmt: skip
FLUX = {
    "depth": 1, "depth_single_blocks": 1, "hidden_size": 32, "num_heads": 2, "yak_mlp": False,
    "txt_norm": False,
}  # fmt: skip
FLUX1 = FLUX | {
    "image_model": "flux", "guidance_embed": True, "in_channels": 4, "out_channels": 4,
    "patch_size": 2, "context_in_dim": 32, "vec_in_dim": 32, "axes_dim": [4, 6, 6],
    "mlp_ratio": 4.0, "theta": 10000, "qkv_bias": True, "txt_ids_dims": [],
}  # fmt: skip
FLUX2 = FLUX | {
    "image_model": "flux2", "in_channels": 16, "out_channels": 16, "patch_size": 1,
    "context_in_dim": 24, "vec_in_dim": None, "axes_dim": [4, 4, 4, 4], "mlp_ratio": 3.0,
    "theta": 2000, "qkv_bias": False, "ops_bias": False, "txt_ids_dims": [3],
    "global_modulation": True, "mlp_silu_act": True, "default_ref_method": "index",
    "ref_index_scale": 10.0,
}  # fmt: skip
CONFIGS = {  # family -> name of ComfyUI's class, its configuration
    "sd": ("SD15", UNET | {"context_dim": 32}),
    "sd2": ("SD20", UNET | {"context_dim": 32, "use_linear_in_transformer": True}),
    "sdxl": ("SDXL", UNET | {
        "context_dim": 56, "use_linear_in_transformer": True, "adm_in_channels": 88,
        "num_classes": "sequential",
    }),
    "sd3": ("SD3", {
        "in_channels": 4, "out_channels": 4, "patch_size": 2, "depth": 2, "input_size": None,
        "adm_in_channels": 64, "num_patches": 256, "pos_embed_max_size": 16, "qk_norm": "rms",
        "pos_embed_scaling_factor": None, "x_block_self_attn_layers": [0],
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128},
        },
    }),
    "flux": ("Flux", FLUX1),
    "flux2-klein": ("Flux2", FLUX2 | {"guidance_embed": False}),
    "flux2": ("Flux2", FLUX2 | {"guidance_embed": True}),
    "z-image": ("ZImage", {
        "image_model": "lumina2", "patch_size": 2, "in_channels": 4, "dim": 32, "cap_feat_dim": 8,
        "n_layers": 1, "n_refiner_layers": 1, "qk_norm": True, "n_heads": 2, "n_kv_heads": 2,
        "axes_dims": [4, 6, 6], "axes_lens": [1024, 32, 32], "rope_theta": 256.0,
        "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True, "time_scale": 1000.0,
        "pad_tokens_multiple": 32,
    }),
}  # fmt: skip
ENCODERS = {
    "sd": {"text_encoder": "clip_l"},
    "sd2": {"text_encoder": "clip_h"},
    "sdxl": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
    "sd3": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
    "flux": {"text_encoder": "clip_l"},
}


def start(checkout: Path, folder: Path) -> None:
    """Make ComfyUI importable, in float32 on the CPU, with models and outputs in a folder."""
    if str(checkout) in sys.path:
        return
    sys.path.insert(0, str(checkout))
    for name in ("app", "utils"):  # of this repository or another library, not ComfyUI's
        sys.modules.pop(name, None)
    from comfy.cli_args import args

    args.cpu = args.force_fp32 = args.fp32_text_enc = True
    args.base_directory = str(folder)


def node():
    """The node's package, as ComfyUI imports it."""
    if "svfit_node" not in sys.modules:
        spec = importlib.util.spec_from_file_location("svfit_node", NODE / "__init__.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["svfit_node"] = module
        spec.loader.exec_module(module)
    return sys.modules["svfit_node"]


def tiny(name: str, seed: int = 0):
    """A tiny pipeline with CLIP's true vocabulary, in float32 with weights as published."""
    pipe = TINY[name](seed)
    if name == "sd3":
        sizes = {"attention_head_dim": 64, "caption_projection_dim": 128}
        pipe.transformer = type(pipe.transformer)(**{**pipe.transformer.config, **sizes})
    dtype = getattr(torch, recognise(pipe).dtype)
    for part in ENCODERS.get(name, {}):
        _true_words(pipe, part)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.to(dtype).to(torch.float32)
    return pipe


def _true_words(pipe, part: str) -> None:
    """Give a CLIP encoder the vocabulary and the length of the published ones."""
    from transformers import CLIPTokenizer

    words = Path(os.environ["COMFYUI"]) / "comfy" / "sd1_tokenizer"
    tokenizer = CLIPTokenizer.from_pretrained(words, model_max_length=77)
    old = getattr(pipe, part)
    config = old.config
    config.vocab_size, config.max_position_embeddings, config.num_hidden_layers = 49408, 77, 3
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 49406, 49407, 49407
    config.projection_dim = config.hidden_size
    tokenizer.pad_token = "!" if part == "text_encoder_2" else tokenizer.pad_token
    fresh = type(old)(config).eval()
    if part == "text_encoder" and hasattr(fresh, "text_projection"):
        torch.nn.init.eye_(fresh.text_projection.weight)  # ComfyUI does not apply SD3's
    setattr(pipe, part, fresh)
    setattr(pipe, part.replace("text_encoder", "tokenizer"), tokenizer)


def in_comfyui(name: str, pipe, dtype: torch.dtype = torch.float32):
    """The MODEL and the CLIP (or None) of a tiny pipeline, in ComfyUI."""
    import comfy.model_patcher
    import comfy.supported_models

    kind, config = CONFIGS[name]
    config = getattr(comfy.supported_models, kind)(config)
    config.set_inference_dtype(dtype, None)
    state = original(name, pipe)
    model = config.get_model({}, "", device="cpu")
    for key, weight in model.diffusion_model.state_dict().items():
        if key in state:
            weight.copy_(state.pop(key))
        elif weight.is_floating_point() and weight.element_size() > 1:
            torch.nn.init.normal_(weight, std=0.02)  # ComfyUI leaves its memory as it was
    assert not state, sorted(state)[:3]
    cpu = torch.device("cpu")
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
    return patcher, clip_of(name, pipe)


def addresses(name: str, pipe) -> dict:
    """Projection of the denoiser -> ComfyUI's key within the model, or (key, rows)."""
    import comfy.utils

    config, denoiser = CONFIGS[name][1], getattr(pipe, recognise(pipe).denoiser)
    tables = {"sd3": comfy.utils.mmdit_to_diffusers, "z-image": comfy.utils.z_image_to_diffusers}
    to = tables.get(name, comfy.utils.flux_to_diffusers)
    table = (comfy.utils.unet_to_diffusers if name.startswith("sd") and name != "sd3" else to)(
        config
    )
    table |= {
        "single_transformer_blocks.0.attn.to_qkv_mlp_proj.weight": "single_blocks.0.linear1.weight",
        "single_transformer_blocks.0.attn.to_out.weight": "single_blocks.0.linear2.weight",
    }
    return {name: table[f"{name}.weight"] for name in find_projections(denoiser)}


def original(name: str, pipe) -> dict:
    """ComfyUI's key within the model -> weight, of all attention weights of the denoiser."""
    denoiser, parts = getattr(pipe, recognise(pipe).denoiser), {}
    for local, address in addresses(name, pipe).items():
        key, rows = (address, (0, 0, 0)) if isinstance(address, str) else address[:2]
        parts.setdefault(key, {})[rows[1]] = denoiser.get_submodule(local).weight.data
    held = {key: torch.cat([rows[i] for i in sorted(rows)]) for key, rows in parts.items()}
    if name == "flux":  # the rest of linear1 is the MLP's
        mlp = pipe.transformer.single_transformer_blocks[0].proj_mlp.weight.data
        held["single_blocks.0.linear1.weight"] = torch.cat(
            [held["single_blocks.0.linear1.weight"], mlp]
        )
    return held


def clip_of(name: str, pipe, dtype: torch.dtype = torch.float32):
    """The CLIP of a tiny pipeline, in ComfyUI; None where concepts change no text encoder."""
    import comfy.sd
    import comfy.sd1_clip
    import comfy.sdxl_clip
    import comfy.text_encoders.flux as flux
    import comfy.text_encoders.sd2_clip as sd2
    import comfy.text_encoders.sd3_clip as sd3
    from comfy.supported_models_base import ClipTarget

    if name not in ENCODERS:
        return None
    kinds = {
        "sd": (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel),
        "sd2": (sd2.SD2Tokenizer, sd2.SD2ClipModel),
        "sdxl": (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel),
        "sd3": (sd3.SD3Tokenizer, sd3.sd3_clip(clip_l=True, clip_g=True, t5=False)),
        "flux": (flux.FluxTokenizer, flux.flux_clip(dtype_t5=torch.float32)),
    }
    small_t5 = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 1, "num_heads": 2}
    options = {"dtype": dtype, "t5xxl_model_config": small_t5}
    for part, encoder in ENCODERS[name].items():
        config = getattr(pipe, part).config
        keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
        extra = {"hidden_act": config.hidden_act}
        options[f"{encoder}_model_config"] = {k: getattr(config, k) for k in keys} | extra
    clip = comfy.sd.CLIP(ClipTarget(*kinds[name]), model_options=options)
    for weight in clip.cond_stage_model.parameters():  # ComfyUI leaves its memory as it was
        torch.nn.init.normal_(weight, std=0.02)
    for part, encoder in ENCODERS[name].items():
        state = getattr(pipe, part).state_dict()
        state = {
            key if key.startswith("text_p") else f"text_model.{key.removeprefix('text_model.')}": v
            for key, v in state.items()
        }
        inner = getattr(clip.cond_stage_model, encoder).transformer
        torch.nn.init.eye_(inner.text_projection.weight)  # as in checkpoints without one
        missing, unexpected = inner.load_state_dict(state, strict=False)
        assert not unexpected and set(missing) <= {"text_projection.weight"}, (missing, unexpected)
    return clip
