"""svd.py against torch.linalg.svd, which it never calls."""

import pytest
import torch

from svfit_diffusion.adapter.basis import factorize, factorize_all, parse_rank, resolve_rank


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


def test_many_at_once_are_the_same_as_one_by_one():
    jobs = [(weight(30, 20, seed=i), 3) for i in range(6)]
    for basis, job in zip(factorize_all(jobs), jobs, strict=True):
        assert torch.equal(basis.U, factorize(*job).U)
