"""An exported concept comes back unchanged; another LoRA becomes the nearest concept."""

import json

import numpy as np
import pytest
import torch
from helpers.loras import TO_Q, XL, random_lora
from helpers.tiny_pipelines import load, make_concept, make_pipeline, make_xl_pipeline
from safetensors.torch import load_file, save_file

from svfit_diffusion.adapter.attention import layout
from svfit_diffusion.pipeline.fusing import fuse_concepts
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.sharing.lora import KINDS
from svfit_diffusion.sharing.lora_export import export_lora
from svfit_diffusion.sharing.lora_file import read_edits
from svfit_diffusion.sharing.lora_import import import_lora


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_concept_comes_back(pipe, base_folder, tmp_path, kind):
    concept = make_concept(pipe, trigger=False)
    export_lora(concept, pipe, tmp_path / "rex.safetensors", kind, "float32")
    made = import_lora(tmp_path / "rex.safetensors", load(base_folder), rank=4)
    assert np.array_equal(made.concept.deltas, concept.deltas)
    assert made.concept.fingerprints == concept.fingerprints
    assert made.share == pytest.approx(1, abs=1e-6) and made.others == 0
    assert made.concept.trigger == "sks dog" and made.used == len(concept.ranks)
    load_concept(pipe, made.concept)


def test_a_foreign_lora_is_met_by_least_squares(pipe, tmp_path):
    """Against numpy's lstsq on the dense edit, one column for each u_i v_i^T."""
    made, weight = random_lora(pipe)
    save_file(made, tmp_path / "other.safetensors")
    got = import_lora(tmp_path / "other.safetensors", pipe, rank=6)
    edits = {
        n: 0.5 * (made[f"{n}.lora_up.weight"] @ made[f"{n}.lora_down.weight"]).double().numpy()
        for n in (TO_Q, TO_Q.replace("attn1_to_q", "ff_x"))
    }
    u, _, vt = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
    columns = np.stack([np.outer(u[:, i], vt[i]).ravel() for i in range(6)], axis=1)
    want, *_ = np.linalg.lstsq(columns, edits[TO_Q].ravel(), rcond=None)
    plan = layout({"unet": pipe.unet}, {"unet": "both"})
    deltas = np.split(got.concept.deltas, np.cumsum(got.concept.ranks)[:-1])
    held = {p.local: d for p, d in zip(plan, deltas, strict=True) if d.any()}
    ((name, delta),) = held.items()
    assert name.endswith("attn1.to_q") and set(got.concept.targets) == {"unet"}
    assert np.allclose(delta, want, rtol=2e-3, atol=1e-4)
    total = sum((edit**2).sum() for edit in edits.values())
    assert got.share == pytest.approx((want**2).sum() / total, rel=1e-3)
    assert 0 < got.share < 0.5 and (got.used, got.others) == (1, 1)


def test_sdxl_in_the_trainers_own_numbering(tmp_path):
    pipe = make_xl_pipeline().to(torch.float16).to(torch.float32)
    concept = make_concept(pipe, targets=XL, trigger=False, common=0)
    export_lora(concept, pipe, tmp_path / "a.safetensors", "kohya", "float32")
    tensors = load_file(tmp_path / "a.safetensors")
    # two blocks of one layer: input 1 (0.resnet), 2 (down), 3 (1.resnet+attention); output 0, 1
    names = (
        ("down_blocks_1_attentions_0", "input_blocks_3_1"),
        ("mid_block_attentions_0", "middle_block_1"),
        ("up_blocks_0_attentions_0", "output_blocks_0_1"),
        ("up_blocks_0_attentions_1", "output_blocks_1_1"),
    )
    renamed = {}
    for key, value in tensors.items():
        for ours, theirs in names:
            key = key.replace(f"lora_unet_{ours}", f"lora_unet_{theirs}")
        renamed[key] = value
    assert not any("down_blocks" in k or "up_blocks" in k for k in renamed)
    save_file(renamed, tmp_path / "b.safetensors")
    made = import_lora(tmp_path / "b.safetensors", pipe, rank=4)
    assert np.array_equal(made.concept.deltas, concept.deltas) and made.others == 0


def test_diffusers_own_alphas_count(pipe, tmp_path):
    concept = make_concept(pipe, trigger=False, targets={"unet": "self"})
    export_lora(concept, pipe, tmp_path / "a.safetensors", "diffusers")
    tensors = load_file(tmp_path / "a.safetensors")
    first = next(iter(sorted(tensors))).removeprefix("unet.").removesuffix(".lora_A.weight")
    settings = {"unet.lora_alpha": 2, "unet.r": 4, "unet.alpha_pattern": {first: 8}}
    save_file(tensors, tmp_path / "b.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    edits, _ = read_edits(tmp_path / "b.safetensors")
    scales = {name: edit.scale for name, edit in edits.items()}
    assert scales.pop(f"unet.{first}") == 2 and set(scales.values()) == {0.5}


def bad_files(pipe):
    made, _ = random_lora(pipe)
    down, up, alpha = (f"{TO_Q}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha"))
    wide = made | {down: torch.ones(4, 9)}
    dora = {"lora_adapter_metadata": '{"unet.use_dora": true}'}
    return {
        "half": ({k: v for k, v in made.items() if k != up}, None, "lacks one of its two"),
        "loha": (made | {f"{TO_Q}.hada_w1_a": torch.ones(2)}, None, "LoHa, LoKr and DoRA"),
        "nan": (made | {up: torch.full_like(made[up], float("nan"))}, None, "NaN or infinity"),
        "integers": (made | {up: made[up].int()}, None, "holds integers, not float"),
        "alpha": (made | {alpha: torch.ones(2)}, None, "do not match"),
        "another base": (wide, None, "LoRA for another base"),
        "zero": ({k: 0 * v for k, v in made.items()}, None, "nothing can be kept"),
        "foreign": ({"transformer.x.lora_A.weight": made[down]}, None, "lacks one of its two"),
        "another kind": (
            {"transformer.x.lora_A.weight": made[down], "transformer.x.lora_B.weight": made[up]},
            None,
            "has no attention projection",
        ),
        "dora": (made, dora, "not supported"),
        "metadata": (made, {"lora_adapter_metadata": "[" * 9000}, "not valid JSON"),
        "deltas": ({"deltas": torch.ones(3)}, None, "not a plain LoRA"),
    }


def test_files_from_strangers_are_refused_in_one_sentence(pipe, tmp_path):
    for name, (tensors, metadata, reason) in bad_files(pipe).items():
        path = tmp_path / f"{name}.safetensors"
        save_file(tensors, path, metadata)
        with pytest.raises(ValueError, match=reason) as error:
            import_lora(path, pipe)
        assert "\n" not in str(error.value) and path.name in str(error.value), name
    pickled = tmp_path / "a.safetensors"
    torch.save({"a": torch.ones(2)}, pickled)
    for data in (pickled.read_bytes(), b"", b"\x05\0\0\0\0\0\0\0{}"):
        pickled.write_bytes(data)
        with pytest.raises(ValueError, match="a.safetensors is not a usable LoRA"):
            import_lora(pickled, pipe)
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="is not a file"):
            import_lora(path, pipe)


def test_a_lora_on_another_base_of_the_same_shape_is_projected_onto_its_own_basis(pipe, tmp_path):
    """It fits by its shapes, and the energy says that it is of another base."""
    export_lora(make_concept(pipe, trigger=False), pipe, tmp_path / "a.safetensors")
    made = import_lora(tmp_path / "a.safetensors", make_pipeline(seed=5), rank=4)
    assert made.share < 0.05


def test_svdiffs_shifts_of_attention_fit_exactly(pipe, base_folder, tmp_path):
    """Against the dense weights that svdiff-pytorch computes: U relu(diag(s + shift)) V^T."""
    g, shifts, want = torch.Generator().manual_seed(0), {}, {}
    plan = layout({"unet": pipe.unet}, {"unet": "both"})
    for projection in plan:
        weight = pipe.unet.get_submodule(projection.local).weight.detach().double()
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        shift = 0.1 * torch.randn(len(s), generator=g)
        shift[-1] = -1.0  # below what a singular value can be
        shifts[f"{projection.local}.delta"] = shift
        want[projection.local] = u @ torch.diag((s + shift).clamp_min(0)) @ vt
    shifts["conv_in.delta"] = torch.ones(4)
    save_file(shifts, tmp_path / "spectral_shifts.safetensors")
    made = import_lora(tmp_path / "spectral_shifts.safetensors", pipe, "full", "sks dog")
    assert (made.used, made.others) == (len(plan), 1) and made.concept.trigger == "sks dog"
    assert made.concept.training["imported"] == "SVDiff"
    fresh = load(base_folder)
    load_concept(fresh, made.concept, name="rex")
    fuse_concepts(fresh)
    for name, weight in want.items():
        got = fresh.unet.get_submodule(name).weight.double()
        assert (got - weight).abs().max() < 2e-3 * weight.abs().max(), name  # the file is float16
    save_file({k: v[:2] for k, v in shifts.items()}, tmp_path / "short.safetensors")
    with pytest.raises(ValueError, match="has 2 shifts, but this base's weight takes"):
        import_lora(tmp_path / "short.safetensors", pipe, "full")


def test_pefts_alphas_are_beside_its_file(pipe, tmp_path):
    """lora_alpha over r, by the ends of names; without the file nobody knows them."""
    concept = make_concept(pipe, targets={"unet": "both"}, trigger=False)
    export_lora(concept, pipe, tmp_path / "a.safetensors", "diffusers", "float32")
    tensors, folder = load_file(tmp_path / "a.safetensors"), tmp_path / "peft"
    folder.mkdir()
    path = folder / "adapter_model.safetensors"
    renamed = {f"base_model.model.{k.removeprefix('unet.')}": v for k, v in tensors.items()}
    save_file(renamed, path)
    with pytest.raises(ValueError, match="alpha is in adapter_config.json beside it, which"):
        read_edits(path)
    rank = next(v for k, v in renamed.items() if k.endswith("lora_A.weight")).shape[0]
    config = {"lora_alpha": 2 * rank, "alpha_pattern": {"attn1.to_q": 8 * rank}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    scales = {name: edit.scale for name, edit in read_edits(path)[0].items()}
    assert {s for n, s in scales.items() if n.endswith("attn1.to_q")} == {8.0}
    assert {s for n, s in scales.items() if not n.endswith("attn1.to_q")} == {2.0}
    for changes, reason in (({"use_rslora": True}, "use_rslora"), (
        {"alpha_pattern": {"(a+)+$": 1}}, "no regular expressions")):  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=reason):
            read_edits(path)
