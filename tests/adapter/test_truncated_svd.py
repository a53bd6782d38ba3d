"""truncated_svd.py against numpy's SVD, on spectra that suit block Krylov and on others."""

import numpy as np
import pytest
import scipy.linalg

from svfit_diffusion.adapter import truncated_svd as module
from svfit_diffusion.adapter.truncated_svd import (
    EDIT,
    EPSILON,
    TOLERANCE,
    _accurate,
    _by_krylov,
    edit_error,
    runs,
    truncated_svd,
)

N = 480  # the least size, about, at which block Krylov is tried
K = np.arange(1, N + 1)


def matrix(s, out=N, in_=N, seed=0):
    """A random matrix [out, in] of singular values s, with those values; "flat" is all random."""
    random = np.random.default_rng(seed)
    if isinstance(s, str):
        return random.standard_normal((out, in_))
    u = np.linalg.qr(random.standard_normal((out, N)))[0]
    v = np.linalg.qr(random.standard_normal((in_, N)))[0]
    return (u * s) @ v.T


STEEP = {
    "power 1": 1 / K,
    "power 1/2": K**-0.5,
    "geometric": 0.8**K,
    "equal pairs": 0.7 ** (K // 2),
    "a cluster cut by the rank": np.where((K > 2) & (K < 10), 0.5, 1 / K),
    "one large value": np.where(K == 1, 1e2, 1 / K),  # squared, beyond 1e3 digits go
    "rank 10, less than the block": np.where(K <= 10, 1 / K, 0),
    "small": 1e-30 / K,
    "large": 1e30 / K,
}
OTHERS = {
    "random": "flat",
    "all equal": np.ones(N),
    "a cluster larger than the block": np.where(K <= 30, 1, 0.5 / K),
    "a cluster about the block's end": np.where((K > 3) & (K < 40), 0.5, 1 / K),
    "rank 3, less than wanted": np.where(K <= 3, 1 / K, 0),
    "a value that a square would lose": np.where(K == 1, 1e9, 1 / K),
    "zero": np.zeros(N),
}


@pytest.mark.parametrize("name", [*STEEP, *OTHERS])
@pytest.mark.parametrize("r", [1, 5])
def test_triples_are_the_top_ones(name, r):
    w = matrix((STEEP | OTHERS)[name])
    u, s, v = truncated_svd(w, r)
    wanted = np.linalg.svd(w, compute_uv=False)
    allowed = TOLERANCE * max(wanted[0], 1e-300)
    assert np.allclose(s, wanted[:r], rtol=TOLERANCE, atol=EPSILON * 2 * N * wanted[0])
    assert np.linalg.norm(w @ v - u * s) <= r * allowed
    assert np.linalg.norm(w.T @ u - v * s) <= r * allowed
    assert np.allclose(u.T @ u, np.eye(r), atol=1e-8)
    assert np.allclose(v.T @ v, np.eye(r), atol=1e-8)


@pytest.mark.parametrize("r", [60, 200, N - 1])
def test_where_no_value_is_tiny_no_svd_is_needed(r, monkeypatch):
    """Of many triples the Gram matrix gives all that are wanted in half of the time."""
    w = matrix("flat") if r < N - 1 else matrix(K**-0.5)
    monkeypatch.setattr(scipy.linalg, "svd", None)
    assert np.allclose(
        truncated_svd(w, r)[1], np.linalg.svd(w, compute_uv=False)[:r], rtol=TOLERANCE
    )


@pytest.mark.parametrize("name", STEEP)
def test_a_falling_spectrum_is_left_to_block_krylov(name):
    w = matrix(STEEP[name])
    assert any(_accurate(w, *found) for found in _by_krylov(w, 5))


@pytest.mark.parametrize("name", OTHERS)
def test_block_krylov_gives_up_where_it_would_be_slow_or_wrong(name):
    w = matrix(OTHERS[name])
    assert not any(_accurate(w, *found) for found in _by_krylov(w, 5))


@pytest.mark.parametrize("shape", [(N, 560), (560, N)])
def test_a_matrix_need_not_be_square(shape):
    w = matrix(0.8**K, *shape)
    u, s, v = truncated_svd(w, 5)
    assert u.shape == (shape[0], 5) and v.shape == (shape[1], 5)
    assert np.allclose(s, 0.8 ** K[:5], rtol=TOLERANCE)
    assert next(_by_krylov(w, 2), None) is not None


@pytest.mark.parametrize("seed", range(8))
def test_no_triple_hides_whatever_the_directions(seed):
    s = np.sort(np.random.default_rng(seed).exponential(size=N) ** 3)[::-1]
    found = truncated_svd(matrix(s, seed=seed), 11)[1]
    assert np.allclose(found, s[:11], rtol=TOLERANCE)


def test_the_same_matrix_gives_the_same_bits():
    """On the same machine, with the same build and number of threads."""
    w = matrix(1 / K)
    for one, two in zip(truncated_svd(w, 5), truncated_svd(w.copy(), 5), strict=True):
        assert np.array_equal(one, two)


GROUPED = np.concatenate([[3, 2, 2, 2 - 1e-9, 1.5, 1.5 - 1e-5, 1, 1e-3, 1e-6], np.zeros(11)])


@pytest.mark.parametrize("size", [1e-8, 1e-10, 1e-12, 1e-15])
@pytest.mark.parametrize("in_", [20, 26])
def test_an_edit_is_off_by_at_most_what_is_said(size, in_):
    """Triples of a matrix that is a little off: how far their edits truly are, and the bound."""
    random = np.random.default_rng(int(-np.log10(size)))
    u = np.linalg.qr(random.standard_normal((20, 20)))[0]
    v = np.linalg.qr(random.standard_normal((in_, 20)))[0]
    w = (u * GROUPED) @ v.T
    off = random.standard_normal(w.shape)
    u_off, s, vt_off = np.linalg.svd(w + size / np.linalg.norm(off, 2) * off, full_matrices=False)
    numbers = runs(np.array(GROUPED))
    assert numbers[:9].tolist() == [1, 2, 2, 2, 3, 4, 5, 6, 7]
    rho = np.hypot(
        np.linalg.norm(w @ vt_off.T - u_off * s, axis=0),
        np.linalg.norm(w.T @ u_off - vt_off.T * s, axis=0),
    )
    bound, worst = edit_error(s, rho, complete=True), 0.0
    for number in range(1, 8):
        delta = (numbers == number) / np.sqrt(np.sum(numbers == number))
        difference = (u * delta) @ v.T - (u_off * delta) @ vt_off
        worst = max(worst, np.linalg.norm(difference))
    assert worst <= bound + 1e-15 * 20
    assert size < 1e-12 or bound <= 20 * worst, "so loose that it says nothing"


def test_what_takes_no_delta_needs_no_vectors():
    """A value of nearly 0, and a group that the rank cuts."""
    rho = np.array([0, 0, 1e-3])
    assert edit_error(np.array([1, 0.5, 1e-8]), rho, complete=True) == 0
    assert edit_error(np.array([1, 0.5, 0.4]), rho, complete=False) == 0
    assert edit_error(np.array([1, 0.5, 0.4]), rho, complete=True) == pytest.approx(
        np.sqrt(2) * 1e-3 / 0.1
    )


def test_neighbours_turned_into_one_another_are_not_accurate():
    """Their residuals are as small as any, but an edit that has them apart is off."""
    s = np.array([1, 0.5, 0.5 - 1e-6, 0.2, 0.1])
    u, v = (np.linalg.qr(np.random.default_rng(i).standard_normal((9, 5)))[0] for i in (0, 1))
    w, turned = (u * s) @ v.T, np.eye(5)
    turned[1:3, 1:3] = [[np.cos(1e-5), -np.sin(1e-5)], [np.sin(1e-5), np.cos(1e-5)]]
    assert _accurate(w, u, s, v)
    assert np.linalg.norm(w @ v @ turned - u @ turned * s) < TOLERANCE * s[-1]
    assert not _accurate(w, u @ turned, s, v @ turned)


def test_where_lapack_does_not_converge_its_slower_routine_is_taken(monkeypatch):
    svd, w = scipy.linalg.svd, matrix("flat", N, N)[:40]

    def gesvd_only(*given, lapack_driver, **more):
        if lapack_driver == "gesdd":
            raise np.linalg.LinAlgError("SVD did not converge")
        return svd(*given, lapack_driver=lapack_driver, **more)

    monkeypatch.setattr(scipy.linalg, "svd", gesvd_only)
    assert np.allclose(truncated_svd(w, 40)[1], np.linalg.svd(w, compute_uv=False))


def test_what_cannot_be_accurate_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(module, "EDIT", EDIT * 1e-12)
    with pytest.raises(ValueError, match="a lower rank, or try other kernels .*OPENBLAS_CORETYPE"):
        truncated_svd(matrix("flat"), 5)
