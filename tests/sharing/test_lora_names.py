"""Names in LoRA files, for every family and every program's habit, and what the tensors hold."""

import json

import numpy as np
import pytest
import torch
from helpers.dense import arrangement
from helpers.tiny_families import TINY, all_targets
from helpers.tiny_pipelines import load, make_concept, picture
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from svfit_diffusion.adapter.attention import layout
from svfit_diffusion.families import recognise
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.pipeline.matching import checked_bases, with_self_check
from svfit_diffusion.sharing.lora_export import export_lora
from svfit_diffusion.sharing.lora_import import import_lora
from svfit_diffusion.sharing.lora_names import TEXT_PREFIXES, kohya_places

# Modules of the published checkpoints, and the projections that lie in each, from its first row
# on, as in ComfyUI's `flux_to_diffusers`, `mmdit_to_diffusers` and `z_image_to_diffusers`.
BLOCK = "transformer.transformer_blocks.0"
PUBLISHED = {
    "sd3": {
        "joint_blocks_0_x_block_attn_qkv": [f"{BLOCK}.attn.to_{x}" for x in "qkv"],
        "joint_blocks_0_context_block_attn_qkv": [f"{BLOCK}.attn.add_{x}_proj" for x in "qkv"],
        "joint_blocks_0_x_block_attn2_qkv": [f"{BLOCK}.attn2.to_{x}" for x in "qkv"],
        "joint_blocks_0_x_block_attn_proj": [f"{BLOCK}.attn.to_out.0"],
        "joint_blocks_0_context_block_attn_proj": [f"{BLOCK}.attn.to_add_out"],
    },
    "flux": {
        "double_blocks_0_img_attn_qkv": [f"{BLOCK}.attn.to_{x}" for x in "qkv"],
        "double_blocks_0_txt_attn_qkv": [f"{BLOCK}.attn.add_{x}_proj" for x in "qkv"],
        "double_blocks_0_txt_attn_proj": [f"{BLOCK}.attn.to_add_out"],
        "single_blocks_0_linear1": [
            f"transformer.single_transformer_blocks.0.attn.to_{x}" for x in "qkv"
        ],
    },
    "flux2": {"double_blocks_0_img_attn_qkv": [f"{BLOCK}.attn.to_{x}" for x in "qkv"]},
    "z-image": {
        "layers_0_attention_qkv": [f"transformer.layers.0.attention.to_{x}" for x in "qkv"],
        "context_refiner_0_attention_out": ["transformer.context_refiner.0.attention.to_out.0"],
    },
}


@pytest.fixture(scope="module")
def base(request, tmp_path_factory):
    """The family's pipeline, as it is published, and a concept on all of it without a word."""
    folder = tmp_path_factory.mktemp("base") / request.param
    pipe = TINY[request.param]()
    pipe.to(getattr(torch, recognise(pipe).dtype)).save_pretrained(folder)
    pipe = load(folder)
    concept = make_concept(pipe, targets=all_targets(pipe), trigger=False)
    return request.param, folder, pipe, concept


def dense_edits(pipe, concept):
    """Canonical name -> U (V diag(delta) + M)^T, one projection at a time."""
    plan, bases = checked_bases(pipe, recognise(pipe), concept)
    deltas = np.split(concept.deltas.astype(np.float64), np.cumsum(concept.ranks)[:-1])
    edits = {}
    for p, b, d in zip(plan, bases, deltas, strict=True):
        U, reads = b.U.double().numpy(), b.V.double().numpy() * d
        if p.part == concept.denoiser and concept.common is not None:
            reads += arrangement(p.local, U, len(reads), concept.common.astype(np.float64))
        edits[p.name] = torch.from_numpy(U @ reads.T)
    return edits


@pytest.mark.parametrize("base", PUBLISHED, indirect=True)
def test_fused_weights_hold_their_projections_one_below_the_other(base, tmp_path):
    name, _, pipe, concept = base
    export_lora(concept, pipe, tmp_path / "a.safetensors", dtype="float32")
    held, edits = load_file(tmp_path / "a.safetensors"), dense_edits(pipe, concept)
    for module, projections in PUBLISHED[name].items():
        down, up, alpha = (
            held[f"lora_unet_{module}.{end}"].double()
            for end in ("lora_down.weight", "lora_up.weight", "alpha")
        )
        got = up @ down * alpha / len(down)
        want = torch.cat([edits[projection] for projection in projections])
        assert torch.allclose(got[: len(want)], want, atol=1e-6), module
        assert not got[len(want) :].any()
        mlp = 4 * 32 if module.endswith("linear1") else 0  # of the tiny transformer of width 32
        assert len(got) == len(want) + mlp


@pytest.mark.parametrize("base", TINY, indirect=True)
def test_every_familys_lora_comes_back(base, tmp_path):
    _, folder, pipe, concept = base
    for kind in ("kohya", "diffusers"):
        if kind == "kohya" and concept.family not in TEXT_PREFIXES:
            with pytest.raises(ValueError, match="pass --to diffusers"):
                export_lora(concept, pipe, tmp_path / "a.safetensors", kind)
            continue
        export_lora(concept, pipe, tmp_path / f"{kind}.safetensors", kind, "float32")
        made = import_lora(tmp_path / f"{kind}.safetensors", load(folder), rank=4)
        assert np.array_equal(made.concept.deltas, concept.deltas), kind
        assert made.others == 0 and made.share == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("base", ["flux2"], indirect=True)
def test_diffusers_reads_the_published_names_of_flux2(base, tmp_path):
    """Of these families, the only one whose fused weights its reader splits at any size."""
    _, folder, pipe, concept = base
    export_lora(concept, pipe, tmp_path / "a.safetensors", dtype="float32")
    other, ours = load(folder), load(folder)
    other.load_lora_weights(tmp_path, weight_name="a.safetensors")
    before = picture(ours)
    load_concept(ours, concept)
    want, got = picture(ours), picture(other)
    assert (got - want).abs().max() < 1e-5 * want.abs().max() < (before - want).abs().max()


def attn_processors(name):
    head, _, tail = name.rpartition(".to_")
    return f"{head}.processor.to_{tail.removesuffix('.0')}_lora"


HABITS = {  # (module's name in diffusers' form, end of A, end of B) of other programs' files
    "older diffusers": lambda n: (attn_processors(n), "down.weight", "up.weight"),
    "oldest diffusers": lambda n: (f"{n}.lora_linear_layer", "down.weight", "up.weight"),
    "PEFT": lambda n: (
        f"base_model.model.{n.partition('.')[2]}", "lora_A.default.weight", "lora_B.default.weight",
    ),
    "no prefix": lambda n: (n.partition(".")[2], "lora_A.weight", "lora_B.weight"),
    "OneTrainer": lambda n: (
        f"lora_unet_{n.partition('.')[2].replace('.', '_')}", "lora_down.weight", "lora_up.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("habit", HABITS)
def test_names_of_other_programs_are_read(pipe, base_folder, tmp_path, habit):
    concept = make_concept(pipe, targets={"unet": "both"}, trigger=False, common=0)
    export_lora(concept, pipe, tmp_path / "a.safetensors", "diffusers", "float32")
    renamed, alpha = {}, {"lora_alpha": 4}  # of rank 4; of PEFT beside the file
    (tmp_path / "adapter_config.json").write_text(json.dumps(alpha))
    for key, tensor in load_file(tmp_path / "a.safetensors").items():
        module, which = key.removesuffix(".weight").rsplit(".lora_", 1)
        name, a, b = HABITS[habit](module)
        renamed[f"{name}.{a if which == 'A' else b}"] = tensor
    save_file(renamed, tmp_path / "b.safetensors")
    made = import_lora(tmp_path / "b.safetensors", load(base_folder), rank=4)
    assert np.array_equal(made.concept.deltas, concept.deltas) and made.others == 0


@pytest.mark.parametrize("base", ["flux"], indirect=True)
def test_names_of_the_published_checkpoint_with_dots(base, tmp_path):
    _, folder, pipe, concept = base
    export_lora(concept, pipe, tmp_path / "a.safetensors", dtype="float32")
    dotted = {}
    for key, tensor in load_file(tmp_path / "a.safetensors").items():
        for block in ("double_blocks_0_img_attn_", "double_blocks_0_txt_attn_", "single_blocks_0_"):
            dots = block.replace("_0_", ".0.").replace("_attn_", "_attn.")
            key = key.replace(f"lora_unet_{block}", f"diffusion_model.{dots}")
        dotted[key] = tensor
    assert any(key.startswith("diffusion_model.double_blocks.0.img_attn.qkv.") for key in dotted)
    with safe_open(tmp_path / "a.safetensors", "np") as file:
        save_file(dotted, tmp_path / "b.safetensors", file.metadata())
    made = import_lora(tmp_path / "b.safetensors", load(folder), rank=4)
    assert np.array_equal(made.concept.deltas, concept.deltas) and made.others == 0


def test_whole_number_alphas_convolutions_and_bundled_words_do_not_reject_a_file(pipe, tmp_path):
    concept = make_concept(pipe, targets={"unet": "both"}, trigger=False, common=0)
    export_lora(concept, pipe, tmp_path / "a.safetensors", dtype="float32")
    tensors = load_file(tmp_path / "a.safetensors")
    tensors |= {key: t.long() for key, t in tensors.items() if key.endswith("alpha")}
    g = torch.Generator().manual_seed(0)
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    down, middle, up = (
        torch.randn(*shape, generator=g) for shape in ((2, 6, 1, 1), (2, 2, 3, 3), (5, 2, 1, 1))
    )
    parts = (("down", down), ("mid", middle), ("up", up))
    more = {f"{conv}.lora_{end}.weight": tensor for end, tensor in parts}
    more["bundle_emb.sks.string_to_param.*"] = torch.ones(1, 8)
    save_file(tensors | more, tmp_path / "b.safetensors")
    plain = import_lora(tmp_path / "a.safetensors", pipe, rank=4)
    made = import_lora(tmp_path / "b.safetensors", pipe, rank=4)
    assert np.array_equal(made.concept.deltas, concept.deltas)
    assert (made.used, made.others) == (plain.used, 1)
    whole = torch.einsum("oaxy,abhw,bixy->oihw", up, middle, down)
    kept = float(sum(np.square(d).sum() for d in concept.deltas.astype(np.float64)))
    assert made.share == pytest.approx(kept / (kept + float(whole.square().sum())), rel=1e-3)


def test_zero_levels_take_no_room_and_ranks_are_not_padded(pipe, base_folder, tmp_path):
    """One value at the end of one projection: its rank is 1, and all others' too."""
    concept = make_concept(pipe, targets={"unet": "both"}, trigger=False, common=0)
    ends = np.cumsum(concept.ranks)
    concept.deltas[: ends[-1]] *= 0
    concept.deltas[ends[0] - 1] = 0.5
    concept = with_self_check(concept, {"unet": pipe.unet}, recognise(pipe))
    export_lora(concept, pipe, tmp_path / "a.safetensors")
    downs = [t for k, t in load_file(tmp_path / "a.safetensors").items() if "down.weight" in k]
    assert {len(t) for t in downs} == {1} and len(downs) == len(concept.ranks)
    assert import_lora(tmp_path / "a.safetensors", load(base_folder), rank=4).share > 0.999


def test_half_precision_keeps_small_values(pipe, tmp_path):
    """Deltas of 1e-4 would be subnormal in float16 if they stood in one of the matrices alone."""
    concept = make_concept(pipe, targets={"unet": "both"}, trigger=False, size=1e-4)
    export_lora(concept, pipe, tmp_path / "a.safetensors", dtype="float16")
    held, plan = load_file(tmp_path / "a.safetensors"), layout({"unet": pipe.unet}, concept.targets)
    edits = dense_edits(pipe, concept)
    for projection in plan:
        module = f"lora_unet_{projection.name.partition('.')[2].replace('.', '_')}"
        down, up = (held[f"{module}.lora_{end}.weight"].double() for end in ("down", "up"))
        want = edits[projection.name]
        scale = held[f"{module}.alpha"] / len(down)
        assert (up @ down * scale - want).norm() < 1e-3 * want.norm(), module


def test_a_family_without_names_is_refused():
    with pytest.raises(ValueError, match="not 'kandinsky'; pass --to diffusers"):
        kohya_places([], "kandinsky", {})
