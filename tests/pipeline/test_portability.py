"""The same concept elsewhere: another LAPACK, precision, threads, version, place of the base."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from diffusers import UNet2DConditionModel
from helpers.quantised import Quantised, QuantisedBackend
from helpers.tiny_pipelines import load, make_concept, make_pipeline, picture
from safetensors.torch import load_file, save_file

from svfit_diffusion.adapter.attention import find_projections
from svfit_diffusion.adapter.basis import factorize
from svfit_diffusion.adapter.cache import cache_folder, load_bases
from svfit_diffusion.adapter.tuner import SVFitConfig, layers, set_deltas, tie_deltas
from svfit_diffusion.concept.file import from_bytes, read_concept, to_bytes
from svfit_diffusion.concept.packing import round_vector
from svfit_diffusion.concept.self_check import PROBES, self_check_deviation, self_check_rows
from svfit_diffusion.families import load_base
from svfit_diffusion.generation.sampling import generate
from svfit_diffusion.pipeline.loading import load_concept, swap_concept
from svfit_diffusion.pipeline.matching import check_layout
from svfit_diffusion.training.subject import sample_folder

OLD = Path(__file__).parents[1] / "data" / "robot-version-1.safetensors"
DRIVERS = ("gesdd", "gesvd", "evr", "ev")


def other_basis(weight, r, driver):
    """U, V of a weight (float64) by another LAPACK routine, never by ours."""
    if driver in ("gesdd", "gesvd"):
        u, _, vt = scipy.linalg.svd(weight, full_matrices=False, lapack_driver=driver)
        return u[:, :r], vt[:r].T
    values, v = scipy.linalg.eigh(weight.T @ weight, driver=driver)
    v = v[:, ::-1][:, :r]
    return weight @ v / np.sqrt(values[::-1][:r]), v


def tied(basis, delta):
    """Deltas as a training writes them."""
    for start, stop, kept in basis.ties():
        delta[start:stop] = delta[start:stop].mean() * kept
    return delta


def disagreement(weight, basis, driver, delta):
    """How far the edits of two factorisations are apart, relative."""
    u, v = other_basis(weight, len(delta), driver)
    mine = (basis.U.double().numpy() * delta) @ basis.V.double().numpy().T
    return np.linalg.norm(mine - (u * delta) @ v.T) / np.linalg.norm(mine)


@pytest.mark.parametrize("driver", DRIVERS)
def test_drivers_agree_on_every_projection_of_toybox(driver, record_property):
    pipe, random, worst = load_base("toybox"), np.random.default_rng(0), 0.0
    for model in (pipe.unet, pipe.text_encoder):
        for name in find_projections(model):
            weight = model.get_submodule(name).weight.detach().double().numpy()
            ranks = (16, min(weight.shape)) if driver.startswith("ges") else (16,)
            for rank in ranks:
                basis = factorize(torch.from_numpy(weight), rank)
                delta = tied(basis, random.standard_normal(rank))
                worst = max(worst, disagreement(weight, basis, driver, delta))
    record_property("worst", float(worst))
    print(f"{driver}: {worst:.2e}")
    assert worst < 1e-6


def repeated(values, out=40, in_=30):
    """A weight with these singular values, and its exact U, V."""
    random = np.random.default_rng(1)
    u = np.linalg.qr(random.standard_normal((out, len(values))))[0]
    v = np.linalg.qr(random.standard_normal((in_, len(values))))[0]
    return (u * np.array(values)) @ v.T


@pytest.mark.parametrize("driver", DRIVERS[:3])
def test_equal_singular_values_take_one_delta_and_drivers_agree(driver):
    weight = repeated([5, 5, 5, 4, 3 + 1e-9, 3, 2, 1] + [0.5] * 10)
    basis = factorize(torch.from_numpy(weight), 10)
    # the rank cuts the group of 0.5; those of nought beyond it are no matter
    assert basis.ties() == ((0, 3, True), (4, 6, True), (8, 10, False))
    free = np.random.default_rng(2).standard_normal(10)
    if driver != "gesdd":  # which ours is here, and so finds the same vectors
        assert disagreement(weight, basis, driver, free.copy()) > 1e-2
    assert disagreement(weight, basis, driver, tied(basis, free)) < 1e-6


def test_directions_of_singular_value_nought_take_no_delta():
    basis = factorize(torch.from_numpy(repeated([3, 2, 1])), "full")
    assert basis.ties() == ((3, 30, False),)
    assert factorize(torch.zeros(4, 3), 2).ties() == ((0, 2, False),)
    assert factorize(torch.ones(4, 3), 1).ties() == ()


def test_a_training_step_on_such_a_weight_keeps_the_group_together(pipe):
    """The layer's deltas, as any optimizer may leave them, are tied as the basis says."""
    name = next(iter(find_projections(pipe.unet)))
    weight = pipe.unet.get_submodule(name).weight
    weight.data = torch.eye(*weight.shape)
    weight.data[3:, 3:] *= torch.linspace(0.9, 0.1, weight.shape[1] - 3)
    pipe.unet.add_adapter(SVFitConfig(r=5, target_modules=[name]), "a")
    set_deltas(pipe.unet, "a", {name: torch.tensor([1.0, 2, 6, 4, 5])})
    tie_deltas(pipe.unet, "a")
    assert layers(pipe.unet)[name].svfit_delta["a"].tolist() == [3, 3, 3, 4, 5]


def two_folders(tmp_path):
    """One base published in float32 files, and its float16 variant."""
    made = make_pipeline()
    made.save_pretrained(tmp_path / "float32")
    made.to(torch.float16).save_pretrained(tmp_path / "float16")
    return tmp_path / "float32", tmp_path / "float16"


def basis_digest(unet):
    """A hash over the bases of a UNet at rank 4 and in full."""
    digest, names = hashlib.sha256(), find_projections(unet)
    for rank in (4, "full"):
        for basis in load_bases(unet, dict.fromkeys(names, rank), "float16").values():
            for tensor in (basis.U, basis.s, basis.V):
                digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


TWO_THREADS = """
import sys, torch
from pipeline.test_portability import UNet2DConditionModel, basis_digest
torch.set_num_threads(2)
print(basis_digest(UNet2DConditionModel.from_pretrained(sys.argv[1])))
"""


def test_the_basis_is_the_same_to_the_bit(tmp_path, monkeypatch):
    """On one machine: files in float32 or float16, loaded as either, on one or two threads."""
    found = []
    for i, folder in enumerate(two_folders(tmp_path)):
        for dtype in ("float32", "float16"):
            monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / f"cache-{i}-{dtype}"))
            unet = UNet2DConditionModel.from_pretrained(
                folder / "unet", dtype=getattr(torch, dtype)
            )
            found.append(basis_digest(unet))
    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "cache-of-another"))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    command = [sys.executable, "-W", "ignore", "-c", TWO_THREADS, str(folder / "unet")]
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{tests.parent}{os.pathsep}{tests}")
    run = subprocess.run(command, capture_output=True, text=True)
    assert {*found, run.stdout.split()[-1]} == {found[0]}, run.stderr


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


def test_pictures_from_a_base_in_float32_and_in_float16_are_alike(tmp_path, record_property):
    """Toybox with what float16 rounds away put back: its float32 original, as it were."""
    pipe, random = load_base("toybox"), torch.Generator().manual_seed(0)
    for model in (pipe.unet, pipe.text_encoder):
        for weight in model.parameters():
            spacing = 2.0 ** (weight.data.abs().clamp(min=2.0**-14).log2().floor() - 10)
            noise = 2 * torch.rand(weight.shape, generator=random) - 1
            weight.data += 0.24 * spacing * noise * (weight.data != 0)  # -0 is not 0 to a hash
    pipe.save_pretrained(tmp_path / "toybox")
    made = []
    for dtype in (torch.float32, torch.float16):
        loaded = load(tmp_path / "toybox", dtype).to(torch.float32)
        load_concept(loaded, sample_folder().parent / "robot.safetensors")
        image, _ = next(
            generate(loaded, "a photo of sks toy on the beach", seed=1, steps=10, guidance=3.0)
        )
        made.append(np.asarray(image))
    assert not np.array_equal(*made), "the two bases are to differ"
    print(f"PSNR {psnr(*made):.1f} dB")
    assert psnr(*made) >= 40


def forget_files(pipe):
    """The pipeline as one that was never on a disk."""
    for model in (pipe.unet, pipe.text_encoder):
        model.config._name_or_path = model.name_or_path = ""
    pipe.unet.register_to_config(_name_or_path="")
    return pipe


def true_error(concept, exact, cast):
    """The relative difference of the edit, densely, between a base and its cast."""
    gaps, norms = [], []
    for projection, rank, delta in zip(
        check_layout(concept, {part: getattr(exact, part) for part in concept.targets}),
        concept.ranks,
        np.split(concept.deltas.astype(float), np.cumsum(concept.ranks)[:-1]),
        strict=True,
    ):
        edits = []
        for pipe in (exact, cast):
            weight = getattr(pipe, projection.part).get_submodule(projection.local).weight
            u, _, vt = np.linalg.svd(weight.detach().double().numpy(), full_matrices=False)
            edits.append((u[:, :rank] * delta) @ vt[:rank])
        gaps.append(np.linalg.norm(edits[0] - edits[1]) ** 2)
        norms.append(np.linalg.norm(edits[0]) ** 2)
    return np.sqrt(sum(gaps) / sum(norms))


def test_a_bfloat16_cast_is_used_with_its_measured_error():
    exact = load_base("toybox")
    cast = forget_files(load_base("toybox").to(torch.bfloat16))
    concept = make_concept(exact, rank=16)
    wanted = true_error(concept, exact, cast)
    with pytest.warns(UserWarning, match="off by .*%, as measured by its self-check") as caught:
        load_concept(cast, concept)
    (said,) = (str(w.message) for w in caught)
    stated = float(said.split("off by ")[1].split("%")[0]) / 100
    print(f"rank 16: {wanted:.2%}, stated {stated:.2%}")
    assert 0.001 < wanted < 0.05 and 0.4 < stated / wanted < 2.5  # an estimate by 8 draws


def test_the_full_spectrum_on_a_bfloat16_cast_asks_for_the_file(pipe):
    exact = load_base("toybox")
    cast = forget_files(load_base("toybox").to(torch.bfloat16))
    concept = make_concept(exact, rank="full", trigger=False)
    print(f"full spectrum: {true_error(concept, exact, cast):.2%}")
    with pytest.raises(ValueError, match="would be off by .*; load 'tiny' from its folder"):
        load_concept(cast, concept)
    other = make_pipeline(seed=5).to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"would be off by 1\d\d\.\d%"):
        load_concept(other, make_concept(pipe, rank=1, common=0))


def test_a_quantised_base_takes_the_basis_of_the_published_weight(pipe, base_folder, monkeypatch):
    """Eight-bit Linears, as a quantisation library would leave them."""
    concept = make_concept(pipe, trigger=False)
    for module in ("svfit_diffusion.adapter.layer", "svfit_diffusion.adapter.tuner", "peft.utils"):
        monkeypatch.setattr(
            f"{module}.resolve_quantization_backend",
            lambda module, **_: QuantisedBackend() if isinstance(module, Quantised) else None,
        )
    quantised = load(base_folder)
    names = [n for n in find_projections(quantised.unet) if n.endswith(("to_q", "to_k"))]
    for name in names:
        parent, _, child = name.rpartition(".")
        linear = quantised.unet.get_submodule(name)
        setattr(quantised.unet.get_submodule(parent), child, Quantised(linear))
    load_concept(quantised, concept)
    load_concept(pipe, concept)
    exact = layers(pipe.unet)
    for name in names:
        layer = layers(quantised.unet)[name]
        assert layer.quantization_backend is not None
        (key,) = layer.svfit_U
        assert torch.equal(layer.svfit_U[key], exact[name].svfit_U[key])
        assert torch.equal(layer.svfit_V[key], exact[name].svfit_V[key])


def spoil(pipe):
    """Turn the first two directions of each cached basis into one another, by 6 degrees."""
    c, s = np.cos(0.1), np.sin(0.1)
    turn = torch.tensor([[c, -s], [s, c]], dtype=torch.float32)
    for entry in cache_folder().glob("basis-*.safetensors"):
        tensors = load_file(entry)
        for name in [n for n in tensors if n.endswith(".U")]:
            tensors[name][:, :2] = tensors[name][:, :2] @ turn
        save_file(tensors, entry)


def test_a_basis_that_does_not_match_is_refused(pipe):
    concept, before = make_concept(pipe), picture(pipe)
    spoil(pipe)
    with pytest.raises(ValueError, match="self-check fails: .* off by"):
        load_concept(pipe, concept)
    assert torch.equal(picture(pipe), before)
    with pytest.raises(ValueError, match="self-check fails"):
        load_concept(pipe, replace(concept, deltas=concept.deltas[::-1].copy()))


def test_a_damaged_file_is_refused_by_a_swap_too(pipe):
    concept = make_concept(pipe, trigger=False)
    load_concept(pipe, concept, name="rex")
    before = picture(pipe)
    flipped = concept.deltas.copy()
    flipped[7] *= -1
    with pytest.raises(ValueError, match="damaged"):
        swap_concept(pipe, "rex", replace(concept, deltas=flipped))
    assert torch.equal(picture(pipe), before)


def probe(u, v, delta):
    """The self-check of a concept of one projection."""
    return tuple(self_check_rows("unet.a", u, v) @ delta)


def test_the_check_is_blind_to_signs_and_measures_a_difference():
    random = np.random.default_rng(0)
    u, v = (np.linalg.qr(random.standard_normal((n, 12)))[0] for n in (90, 70))
    delta = random.standard_normal(12)
    stated = probe(u, v, delta)
    flip = random.choice([-1.0, 1.0], 12)
    assert np.allclose(stated, probe(u * flip, v * flip, delta), rtol=1e-5)
    found = []
    for _ in range(50):  # edits that are off by 1 %
        off = delta + 0.01 * np.linalg.norm(delta) * random.standard_normal(12) / np.sqrt(12)
        found.append(self_check_deviation(probe(u, v, off), stated, np.linalg.norm(delta)))
    assert 0.007 < np.sqrt(np.mean(np.square(found))) < 0.013
    assert self_check_deviation((0.0,) * PROBES, (0.0,) * PROBES, 0.0) == 0


def test_a_file_of_version_3_is_still_read_and_written_as_it_was():
    """Its word is in half precision, which four bits do not hold."""
    path = OLD.with_name("robot-version-3.safetensors")
    old = read_concept(path)
    assert old.packed and not old.packed_words and to_bytes(old) == path.read_bytes()
    rows = old.rows()["text_encoder"]
    assert not np.array_equal([round_vector(row.astype(np.float32)) for row in rows], rows)


def test_a_file_of_version_1_is_still_read_and_draws_the_same(pipe):
    old = read_concept(OLD)
    header = json.loads(OLD.read_bytes()[8 : 8 + int.from_bytes(OLD.read_bytes()[:8], "little")])
    assert header["__metadata__"]["version"] == "1" and old.check == ()
    assert to_bytes(old) == OLD.read_bytes()
    assert (old.trigger, old.values, old.base) == ("sks toy", 1344, "toybox")
    concept = make_concept(pipe, common=0)
    as_version_1 = from_bytes(to_bytes(replace(concept, check=())), "it")
    load_concept(pipe, as_version_1, name="rex")
    first = picture(pipe)
    swap_concept(pipe, "rex", concept)
    assert torch.equal(picture(pipe), first)
