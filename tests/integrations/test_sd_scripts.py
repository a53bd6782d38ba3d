"""Exported files in kohya's sd-scripts: all modules are found, and what is merged is our edit."""

import dataclasses
import sys

import pytest
import torch
from diffusers import UNet2DConditionModel
from helpers.tiny_families import TINY, all_targets
from helpers.tiny_pipelines import make_concept
from safetensors.torch import load_file
from torch import nn

from benchmarks.families.table import SDXL
from svfit_diffusion import export_lora, fuse_concepts, load_concept
from svfit_diffusion.adapter import layout
from svfit_diffusion.families import recognise
from svfit_diffusion.pipeline import with_self_check
from svfit_diffusion.sharing.lora_names import kohya_places

from .conftest import checkout

BLOCK, SINGLE = "transformer_blocks.{}.attn.", "single_transformer_blocks.0.attn."
FLUX = {  # sd-scripts' Linear -> ours, one below the other
    "double_blocks.0.img_attn.qkv": [BLOCK.format(0) + f"to_{x}" for x in "qkv"],
    "double_blocks.0.txt_attn.qkv": [BLOCK.format(0) + f"add_{x}_proj" for x in "qkv"],
    "double_blocks.0.img_attn.proj": [BLOCK.format(0) + "to_out.0"],
    "double_blocks.0.txt_attn.proj": [BLOCK.format(0) + "to_add_out"],
    "single_blocks.0.linear1": [
        *(SINGLE + f"to_{x}" for x in "qkv"), "single_transformer_blocks.0.proj_mlp",
    ],
}  # fmt: skip
SD3 = {
    "joint_blocks.0.x_block.attn2.qkv": ["transformer_blocks.0.attn2.to_" + x for x in "qkv"],
    "joint_blocks.0.x_block.attn2.proj": ["transformer_blocks.0.attn2.to_out.0"],
    "joint_blocks.0.context_block.attn.proj": [BLOCK.format(0) + "to_add_out"],
}
for i in range(2):
    SD3 |= {
        f"joint_blocks.{i}.x_block.attn.qkv": [BLOCK.format(i) + f"to_{x}" for x in "qkv"],
        f"joint_blocks.{i}.context_block.attn.qkv": [
            BLOCK.format(i) + f"add_{x}_proj" for x in "qkv"
        ],
        f"joint_blocks.{i}.x_block.attn.proj": [BLOCK.format(i) + "to_out.0"],
    }


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """sd-scripts, importable in this process."""
    path = checkout("SD_SCRIPTS", "networks")
    sys.path.insert(0, str(path))
    yield path
    sys.path.remove(str(path))


class Named(nn.Module):
    """A text encoder under the name that its modules had before transformers 5."""

    def __init__(self, encoder):
        super().__init__()
        self.text_model = encoder.text_model if hasattr(encoder, "text_model") else encoder


def weight_of(model, name):
    """A Linear's weight, with what was fused into it."""
    module = model.get_submodule(name)
    return getattr(module, "base_layer", module).weight.data


def made(name, folder):
    """A pipeline, a concept on all of it without a word, and its LoRA."""
    pipe = TINY[name]()
    if name == "sd3":  # heads of 64, as many as layers
        sizes = {"attention_head_dim": 64, "caption_projection_dim": 128}
        pipe.transformer = type(pipe.transformer)(**{**pipe.transformer.config, **sizes})
    concept = make_concept(pipe, targets=all_targets(pipe), trigger=False)
    models = {part: getattr(pipe, part) for part in concept.targets}
    concept = with_self_check(concept, models, recognise(pipe))
    file = folder / "rex.safetensors"
    file.parent.mkdir(exist_ok=True)
    export_lora(concept, pipe, file, dtype="float32")
    return pipe, concept, file


def theirs(name, pipe):
    """sd-scripts' denoiser with the pipeline's attention weights."""
    if name == "flux":
        from library.flux_models import Flux, FluxParams

        model = Flux(FluxParams(16, 32, 32, 32, 4.0, 2, 1, 1, [4, 6, 6], 10_000, True, True))
    else:
        from library.sd3_models import MMDiT

        model = MMDiT(
            input_size=None, pos_embed_scaling_factor=None, pos_embed_offset=None,
            pos_embed_max_size=16, patch_size=2, in_channels=4, depth=2, num_patches=256,
            adm_in_channels=64, context_embedder_in_features=64,
            context_embedder_out_features=128, qk_norm="rms", x_block_self_attn_layers=[0],
        )  # fmt: skip
    for key, names in (FLUX if name == "flux" else SD3).items():
        weights = [weight_of(pipe.transformer, n) for n in names]
        model.get_submodule(key).weight.data.copy_(torch.cat(weights))
    return model


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_what_is_merged_is_our_edit(name, tmp_path, monkeypatch):
    from networks import lora, lora_flux, lora_sd3

    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "bases"))
    pipe, concept, file = made(name, tmp_path)
    denoiser = pipe.unet if name == "sd" else theirs(name, pipe)
    parts = [part for part in ("text_encoder", "text_encoder_2") if part in concept.targets]
    encoders = [Named(getattr(pipe, part)) for part in parts]
    given = encoders[0] if name == "sd" else [*encoders, None][: 3 if name == "sd3" else 2]
    kind = {"sd": lora, "sd3": lora_sd3, "flux": lora_flux}[name]
    network, weights = kind.create_network_from_weights(
        1.0, str(file), None, given, denoiser, for_inference=True
    )
    modules = {key.split(".")[0] for key in load_file(file)}
    found = {one.lora_name for one in (*network.text_encoder_loras, *network.unet_loras)}
    assert modules == found
    before = {key: weight.clone() for key, weight in denoiser.state_dict().items()}
    network.merge_to(given, denoiser, weights, torch.float32, "cpu")
    changed = sum(not torch.equal(w, before[n]) for n, w in denoiser.state_dict().items())
    merged = {
        (part, key): module.weight.data.clone()
        for part, model in (("denoiser", denoiser), *zip(parts, encoders, strict=True))
        for key, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    other, concept, _ = made(name, tmp_path / "again")
    load_concept(other, concept)
    fuse_concepts(other)
    table = {"flux": FLUX, "sd3": SD3}.get(name)
    if table is None:
        table = {key: [key] for part, key in merged if part == "denoiser" and ".attn" in key}
    assert changed == len(table)
    inner = getattr(other, recognise(other).denoiser)
    wanted = {
        ("denoiser", key): torch.cat([weight_of(inner, n) for n in names])
        for key, names in table.items()
    }
    for part in parts:
        wanted |= {
            (part, key): weight_of(Named(getattr(other, part)), key)
            for which, key in merged
            if which == part and "self_attn" in key
        }
    for key, weight in wanted.items():
        assert (merged[key] - weight).abs().max() < 1e-5 * weight.abs().max(), key


def test_the_modules_of_sdxl_are_theirs():
    """Of its true size, without weights: all names, and the shapes of all matrices."""
    from library.sdxl_original_unet import SdxlUNet2DConditionModel
    from networks import lora

    pipe = TINY["sdxl"]()
    with torch.device("meta"):
        models = {"unet": UNet2DConditionModel(**SDXL)}
        unet = SdxlUNet2DConditionModel()
    models |= {part: getattr(pipe, part) for part in ("text_encoder", "text_encoder_2")}
    plan = layout(models, dict.fromkeys(models, "both"))
    weights = {}
    for projection, place in zip(plan, kohya_places(plan, "sdxl", models), strict=True):
        weights[f"{place.module}.lora_down.weight"] = torch.zeros(1, projection.in_features)
        weights[f"{place.module}.lora_up.weight"] = torch.zeros(place.rows, 1)
        weights[f"{place.module}.alpha"] = torch.tensor(1.0)
    encoders = [Named(pipe.text_encoder), Named(pipe.text_encoder_2)]
    network, converted = lora.create_network_from_weights(
        1.0, "", None, encoders, unet, weights_sd=weights, for_inference=True
    )
    network.apply_to(encoders, unet)
    network.load_state_dict(converted)  # raises for a missing, an unknown or another shape
    assert len(network.unet_loras) == sum(p.part == "unet" for p in plan) == 560


def test_the_metadata_are_what_their_specification_requires(tmp_path, monkeypatch):
    from library import sai_model_spec as spec

    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "bases"))
    for name, architecture in (("sd", spec.ARCH_SD_V1), ("flux", spec.ARCH_FLUX_1_DEV)):
        _, _, file = made(name, tmp_path)
        held = spec.load_metadata_from_safetensors(str(file))
        fields = {k.removeprefix("modelspec."): v for k, v in held.items() if "modelspec." in k}
        known = {key.name for key in dataclasses.fields(spec.ModelSpecMetadata)}
        assert set(fields) <= known
        found = spec.ModelSpecMetadata(**fields)  # raises where a required one is missing
        assert found.architecture == f"{architecture}/{spec.ADAPTER_LORA}"
        sizes = found.resolution.split("x")
        assert [int(size) for size in sizes] == ([512, 512] if name == "sd" else [1024, 1024])
