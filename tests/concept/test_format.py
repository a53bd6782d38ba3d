"""docs/concept-format.md, by a reader written from it: numpy and safetensors, nothing of ours."""

import base64
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.dense import arrangement
from helpers.loras import XL
from helpers.tiny_families import TINY
from helpers.tiny_pipelines import load, make_concept, make_xl_pipeline, run
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

from svfit_diffusion.adapter.tuner import layers
from svfit_diffusion.concept.file import read_concept, write_concept
from svfit_diffusion.concept.packing import round_vector
from svfit_diffusion.families import load_base, recognise
from svfit_diffusion.pipeline.loading import load_concept

ENDS = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
DOC = Path(__file__).parents[2] / "docs" / "concept-format.md"


def published(folder, part):
    """Module path without text_model. -> weight in float16, of all attention projections."""
    weights = {}
    for file in (Path(folder) / part).glob("*.safetensors"):
        for key, weight in load_file(file).items():
            path = key.removesuffix(".weight").removeprefix("text_model.")
            inside = ".attn" in path or ".self_attn" in path
            if inside and key.endswith(".weight") and path.endswith(ENDS):
                weights[path] = weight.astype("<f2")
    return dict(sorted(weights.items()))


def fingerprint(weights):
    digest = hashlib.sha256()
    for path, weight in weights.items():
        digest.update(f"{path}|({weight.shape[0]}, {weight.shape[1]})|torch.float16".encode())
        digest.update(weight.tobytes())
    return digest.hexdigest()[:32]


def signs(text, length):
    data = hashlib.shake_256(text.encode()).digest(length)
    return np.unpackbits(np.frombuffer(data, np.uint8)).reshape(8, length) * 2.0 - 1


def unpack(ranks):
    for part in ranks.split():
        rank, _, count = part.partition("x")
        yield from [int(rank)] * int(count or 1)


def read(path, folder):
    """Canonical name -> edit [out, in] of a concept file on a base's folder, all checked."""
    with safe_open(path, framework="np") as file:
        text = file.metadata()
    tensors = load_file(path)
    assert text["format"] == "svfit" and text["version"] in ("2", "3", "4", "5")
    assert text["version"] == "5" or ("outputs" in text) == (text["version"] == "4")
    found = {}
    for part, kind in json.loads(text["targets"]).items():
        weights = published(folder, part)
        assert fingerprint(weights) == json.loads(text["fingerprints"])[part]
        middle = "text_model." if part.startswith("text_encoder") else ""
        wanted = {"both": ".", "self": ".attn1." if part == "unet" else ".", "cross": ".attn2."}
        for name, weight in weights.items():
            if wanted[kind] in name:
                found[f"{part}.{middle}{name}"] = weight.astype(np.float64)
    names, ranks = sorted(found), list(unpack(text["ranks"]))
    pairs = zip(names, ranks, strict=True)
    lines = [f"{n} {found[n].shape[0]} {found[n].shape[1]} {rank}" for n, rank in pairs]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32] == text["layout"]
    deltas = tensors["deltas"].astype(np.float64)
    if "scales" in tensors:
        halves = np.stack([tensors["deltas"] % 16, tensors["deltas"] // 16], 1).reshape(-1)
        scales = np.repeat(tensors["scales"].astype(np.float64), ranks)
        deltas = (halves[: sum(ranks)].astype(np.float64) - 8) * scales
    common = tensors.get("common", np.zeros(0)).astype(np.float64)
    if "common_scales" in tensors:
        halves = np.stack([tensors["common"] % 16, tensors["common"] // 16], 1).reshape(-1)
        common = (halves - 8.0) * np.repeat(tensors["common_scales"].astype(np.float64), 64)
    edits, check, start = {}, np.zeros(8), 0
    for name, rank in zip(names, ranks, strict=True):
        delta = deltas[start : start + rank]
        start += rank
        u, _, vt = np.linalg.svd(found[name], full_matrices=False)
        reads = vt[:rank].T * delta
        if len(common) and not name.startswith("text_encoder"):
            reads += arrangement(name.partition(".")[2], u[:, :rank], len(reads), common)
        edits[name] = u[:, :rank] @ reads.T
        out, in_ = edits[name].shape
        left, right = signs(f"{name}|U", out), signs(f"{name}|V", in_)
        check += ((left @ edits[name]) * right).sum(1)
    stated = np.frombuffer(base64.b64decode(text["check"]), "<f4")
    norm = np.sqrt(sum((edit**2).sum() for edit in edits.values()))
    assert np.sqrt(np.mean((check - stated) ** 2)) <= 1e-4 * norm
    return edits


def vectors(path):
    """Text encoder -> (layers or None, rows [tokens, width]) of the learned words."""
    with safe_open(path, framework="np") as file:
        text = file.metadata()
    tensors, found = load_file(path), {}
    layers, shapes = json.loads(text.get("outputs", "{}")), json.loads(text["trigger_shape"])
    if "vectors" in tensors:
        halves = np.stack([tensors["vectors"] % 16, tensors["vectors"] // 16], 1).reshape(-1)
        levels, scales = halves.astype(np.float32) - 8, tensors["vector_scales"]
    rows, scale = tensors.get("trigger", np.zeros(0)).astype(np.float32), 0
    for part, (tokens, width) in sorted(shapes.items()):
        if "vectors" in tensors and (part in layers or text["version"] == "5"):
            block = np.zeros((tokens, width), np.float32)
            for row in block:
                for start in range(0, width, 64):
                    piece = row[start : start + 64]
                    piece[:] = levels[: len(piece)] * scales[scale]
                    levels, scale = levels[len(piece) :], scale + 1
        else:
            block, rows = rows[: tokens * width].reshape(tokens, width), rows[tokens * width :]
        found[part] = layers.get(part), block
    return found


def ours(pipe, concept, name="made"):
    """Canonical name -> edit, as our layers apply it."""
    load_concept(pipe, concept, name=name)
    for part in concept.targets:
        middle = "text_model." if part.startswith("text_encoder") else ""
        for path, layer in layers(getattr(pipe, part)).items():
            full = f"{part}.{middle}{path.removeprefix('text_model.')}"
            yield full, layer.get_delta_weight(name).numpy()


@pytest.mark.parametrize("targets", [None, {"unet": "cross"}, {"unet": "self"}])
@pytest.mark.parametrize(
    ("rank", "packed", "common"),
    [(4, False, 0), (5, True, 0), ("full", False, 0), ("full", True, 0), (4, False, 256),
     (5, True, 64)],
)  # fmt: skip
def test_an_independent_reader_finds_the_same_edits(
    pipe, base_folder, tmp_path, targets, rank, packed, common
):
    concept = make_concept(pipe, rank=rank, targets=targets, packed=packed, common=common)
    edits = read(write_concept(concept, tmp_path / "a.safetensors"), base_folder)
    held = dict(ours(pipe, concept))
    assert held.keys() == edits.keys()
    for name, edit in held.items():
        assert np.linalg.norm(edit - edits[name]) < 1e-6 * np.linalg.norm(edits[name]), name


def test_it_reads_sdxl_too(tmp_path):
    make_xl_pipeline().to(torch.float16).save_pretrained(tmp_path / "xl")
    pipe = load(tmp_path / "xl")
    concept = make_concept(pipe, targets=XL, trigger=False)
    edits = read(write_concept(concept, tmp_path / "a.safetensors"), tmp_path / "xl")
    for name, edit in ours(pipe, concept):
        assert np.linalg.norm(edit - edits[name]) < 1e-6 * np.linalg.norm(edits[name]), name


@pytest.mark.parametrize(("packed", "words"), [(False, False), (True, False), (True, True)])
def test_it_finds_the_words_in_outputs(pipe, tmp_path, packed, words):
    """Of FLUX.2's layout: three layers side by side, with an embedding beside it."""
    rows = np.random.default_rng(0).standard_normal(2 * 32 + 2 * 75).astype(np.float16)
    if packed:
        word = [round_vector(row) for row in rows[64:].astype(np.float32).reshape(2, 75)]
        rows = np.concatenate([rows[:64], *word])
    if words:
        row = [round_vector(row) for row in rows[:64].astype(np.float32).reshape(2, 32)]
        rows = np.concatenate([*row, rows[64:]])
    concept = replace(
        make_concept(pipe, packed=packed, common=0),
        packed_words=words,
        trigger_rows=rows,
        trigger_shape={"text_encoder": (2, 32), "text_encoder_3": (2, 75)},
        outputs={"text_encoder_3": (9, 18, 27)},
    )
    path = write_concept(concept, tmp_path / "a.safetensors")
    found, again, part = vectors(path), read_concept(path), "text_encoder_3"
    assert (found["text_encoder"][0], found[part][0]) == (None, [9, 18, 27])
    assert np.array_equal(found["text_encoder"][1], rows[:64].reshape(2, 32))
    assert np.array_equal(found[part][1], rows[64:].reshape(2, 75))
    assert all(np.array_equal(block, again.rows()[name]) for name, (_, block) in found.items())
    assert (again.packed, again.packed_words) == (packed, words)
    assert again.outputs == {part: (9, 18, 27)} and np.array_equal(again.deltas, concept.deltas)


def test_a_word_in_four_bits_is_what_a_training_writes_and_shows(config, tmp_path):
    """Its rows are in the file as they were rounded, and an embedding takes a quarter."""
    small, large = (
        run(config, num_vectors=3, delta_bits=bits, output_dir=str(tmp_path / str(bits))).path
        for bits in (4, 16)
    )
    found = vectors(small)["text_encoder"][1]
    assert np.array_equal(found, [round_vector(row) for row in found])
    assert np.array_equal(found, read_concept(small).rows()["text_encoder"])
    exact = read_concept(large).rows()["text_encoder"].astype(np.float32)
    assert 0 < np.linalg.norm(found - exact) < 0.2 * np.linalg.norm(exact)
    with safe_open(small, framework="np") as file:
        assert file.metadata()["version"] == "5" and "trigger" not in load_file(small)


@pytest.mark.slow
def test_the_table_of_bytes_is_what_the_script_prints():
    command = [sys.executable, "-m", "benchmarks.families.file_sizes"]
    run = subprocess.run(command, cwd=DOC.parents[1], capture_output=True, text=True, check=True)
    assert len(run.stdout.splitlines()) == 24 and run.stdout in DOC.read_text()


@pytest.mark.parametrize("name", ["flux2-klein", "hidream", "auraflow", "pixart-sigma"])
def test_other_families_projections_and_precision(name, tmp_path):
    """Their names and precision, as the page says; weights by their files' keys alone."""
    text = DOC.read_text()
    kind = "float16" if f"`{name}`" in text.partition("(float16 for ")[2][:60] else "bfloat16"
    pipe = TINY[name]()
    pipe.save_pretrained(tmp_path / "base")
    part = recognise(pipe).denoiser
    ends = (*ENDS, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "to_qkv_mlp_proj",
            "to_out", "to_q_t", "to_k_t", "to_v_t", "to_out_t")  # fmt: skip
    digest = hashlib.sha256()
    weights = {}
    for file in (tmp_path / "base" / part).glob("*.safetensors"):
        weights |= load_torch(file)
    for key in sorted(weights):
        path = key.removesuffix(".weight")
        if (
            "attn" in path
            and key.endswith(".weight")
            and path.endswith(tuple(f".{e}" for e in ends))
        ):
            weight = weights[key].to(getattr(torch, kind))
            shape = f"({weight.shape[0]}, {weight.shape[1]})"
            digest.update(f"{path}|{shape}|torch.{kind}".encode())
            digest.update(weight.contiguous().view(torch.uint8).numpy())
    base = load_base(str(tmp_path / "base"))
    concept = make_concept(base, targets={part: "both"}, trigger=False)
    assert concept.fingerprints[part] == digest.hexdigest()[:32]
