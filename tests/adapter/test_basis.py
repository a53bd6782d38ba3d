"""basis.py against torch.linalg.svd, which it never calls, and LAPACK's slower routine."""

import functools

import numpy as np
import pytest
import scipy.linalg
import torch

from svfit_diffusion.adapter.basis import factorize, parse_rank, resolve_rank


def weight(out, in_, decay=1.0, seed=0):
    """A random matrix whose singular values fall like 1 / i^decay."""
    g = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(out, min(out, in_), generator=g, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(in_, min(out, in_), generator=g, dtype=torch.float64))[0]
    s = torch.arange(1, min(out, in_) + 1, dtype=torch.float64) ** -decay
    return (u * s) @ v.T


@pytest.mark.parametrize("shape", [(48, 48), (64, 20), (20, 64), (1, 7), (480, 520)])
@pytest.mark.parametrize("rank", [1, 4, "full"])
def test_edit_is_that_of_a_direct_svd(shape, rank):
    w = weight(*shape)
    r = resolve_rank(w, rank)
    basis = factorize(w, rank)
    u, s, vt = torch.linalg.svd(w, full_matrices=False)
    delta = torch.randn(r, dtype=torch.float64)
    mine = (basis.U.double() * delta) @ basis.V.double().T
    theirs = (u[:, :r] * delta) @ vt[:r]
    assert basis.U.shape == (shape[0], r) and basis.V.shape == (shape[1], r)
    assert torch.allclose(basis.s.double(), s[:r], rtol=1e-6)
    assert (mine - theirs).norm() <= 1e-6 * theirs.norm()


def test_small_singular_values_of_the_full_spectrum_are_right():
    w = weight(40, 30, decay=4)
    s = torch.linalg.svdvals(w)
    assert torch.allclose(factorize(w, "full").s.double(), s, rtol=1e-5)


@pytest.mark.parametrize("w", [torch.zeros(8, 6), torch.ones(8, 6)])
def test_rank_deficient_weights_factor(w):
    basis = factorize(w, "full")
    assert torch.allclose((basis.U * basis.s) @ basis.V.T, w, atol=1e-6)


def test_energy_is_the_least_rank_that_holds_it():
    w = torch.diag(torch.tensor([3.0, 2.0, 1.0]))  # energies 9, 4, 1
    assert [resolve_rank(w, f"energy={e}") for e in (0.6, 0.65, 0.9, 0.93, 1)] == [1, 2, 2, 3, 3]


def test_rank_is_at_most_the_spectrum():
    assert resolve_rank(torch.ones(3, 9), 16) == 3


@pytest.mark.parametrize("rank", [0, -1, 1.5, True, "half", "energy=2", "energy=x", "", None])
def test_wrong_ranks_are_refused(rank):
    with pytest.raises(ValueError, match="whole number"):
        parse_rank(rank)


def test_non_finite_weight_is_refused():
    with pytest.raises(ValueError, match="finite"):
        factorize(torch.full((3, 3), float("nan")), 1)


def test_what_exceeds_float32_is_refused_by_name():
    with pytest.raises(ValueError, match=r"to_q of shape \(3, 3\) has a singular value of 1.0e"):
        factorize(torch.eye(3, dtype=torch.float64) * 1e39, 1, "to_q")


def kind(name, out, in_):
    """A weight of a kind that trained ones are not, but merged, pruned and scaled ones may be."""
    g = np.random.default_rng(0)
    few, plain = min(out, in_), g.standard_normal((out, in_))
    u, v = (np.linalg.qr(g.standard_normal((n, few)))[0] for n in (out, in_))
    k = np.arange(1, few + 1)
    low = g.standard_normal((out, 4)) @ g.standard_normal((4, in_)) / 100
    if name.startswith("all equal"):
        return u @ v.T
    return {
        "zero": 0 * plain,
        "rank 1": np.outer(u[:, 0], v[:, 0]),
        "ones": plain * 0 + 1,
        "rank 3": (u * np.where(k <= 3, 1 / k, 0)) @ v.T,
        "one huge value": (u * np.where(k == 1, 1e9, 1 / k)) @ v.T,
        "one huge entry": plain + 1e9 * np.outer(np.arange(out) == 0, np.arange(in_) == 0),
        "pairs of equal values": (u * 0.7 ** (k // 2)) @ v.T,
        "falls below what float64 holds": (u * 0.3**k) @ v.T,
        "denormal in float32": torch.from_numpy(1e-42 * plain).float().double().numpy(),
        "denormal in float64": 1e-310 * plain,
        "scale 1e-30": 1e-30 * plain,
        "scale 1e30": 1e30 * plain,
        "rank 4 in float16": torch.from_numpy(low).half().double().numpy(),
        "rank 4 in bfloat16": torch.from_numpy(low).bfloat16().double().numpy(),
    }[name]


KINDS = (
    "zero", "rank 1", "ones", "rank 3", "one huge value", "one huge entry", "all equal",
    "pairs of equal values", "falls below what float64 holds", "denormal in float32",
    "denormal in float64", "scale 1e-30", "scale 1e30", "rank 4 in float16", "rank 4 in bfloat16",
)  # fmt: skip


@functools.cache
def by_qr(name, shape):
    """The weight of a kind, scaled as is exact, and its U and V^T by LAPACK's gesvd."""
    w = kind(name, *shape)
    u, _, vt = scipy.linalg.svd(
        np.ldexp(w, -np.frexp(np.abs(w).max())[1]), full_matrices=False, lapack_driver="gesvd"
    )
    return w, u, vt


def edits(w, u, vt, rank):
    """One edit of a weight in two bases, ours and another, with deltas tied as a training does."""
    basis = factorize(torch.from_numpy(w), rank)
    delta = np.random.default_rng(1).standard_normal(len(basis.s))
    for start, stop, kept in basis.ties():
        delta[start:stop] = delta[start:stop].mean() * kept
    ours = (basis.U.double().numpy() * delta) @ basis.V.double().numpy().T
    return ours, (u[:, : len(delta)] * delta) @ vt[: len(delta)], np.linalg.norm(delta)


@pytest.mark.parametrize("rank", [1, 16, "full", "energy=0.99"])
@pytest.mark.parametrize("shape", [(90, 70), (48, 48), (1, 40), (40, 1)])
@pytest.mark.parametrize("name", KINDS)
def test_weights_of_every_kind_take_one_edit(name, shape, rank):
    ours, theirs, size = edits(*by_qr(name, shape), rank)
    assert np.linalg.norm(ours - theirs) <= 1e-6 * size
    assert np.linalg.norm(ours) == pytest.approx(size, rel=1e-6)


@pytest.mark.parametrize("rank", [5, 16, "full"])
@pytest.mark.parametrize("name", ["rank 1", "rank 3", "rank 4 in float16"])
def test_large_weights_of_low_rank_do_too(name, rank):
    ours, theirs, size = edits(*by_qr(name, (480, 480)), rank)
    assert np.linalg.norm(ours - theirs) <= 1e-6 * size


@pytest.mark.parametrize("scale", [2.0**-1040, 1e-30, 2.0**60])
def test_a_scale_leaves_directions_and_ties(scale):
    w = weight(24, 16, decay=2) * 3
    plain, scaled = factorize(w, 9), factorize(w * scale, 9)
    assert torch.allclose(scaled.s.double(), plain.s.double() * scale, rtol=1e-6, atol=1e-45)
    assert torch.equal(scaled.groups, plain.groups)
    signs = (plain.U * scaled.U).sum(0)
    assert torch.allclose(signs.abs(), torch.ones(9), atol=1e-5)
