"""triples.py against numpy's SVD, on spectra that suit block Krylov and on those that do not."""

import numpy as np
import pytest
import scipy.linalg

from svfit_diffusion.adapter.truncated_svd import TOLERANCE, _accurate, _by_krylov, truncated_svd

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
    "one large value": np.where(K == 1, 1e3, 1 / K),
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
    assert np.allclose(s, wanted[:r], rtol=TOLERANCE, atol=1e-6 * allowed)
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
    w = matrix(1 / K)
    for one, two in zip(truncated_svd(w, 5), truncated_svd(w.copy(), 5), strict=True):
        assert np.array_equal(one, two)
