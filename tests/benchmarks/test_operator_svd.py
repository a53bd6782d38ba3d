"""Singular vectors that are learned become those of LAPACK, by many steps; ours are at once."""

import torch

from benchmarks.families.operator_svd import RANK, error, learned
from svfit_diffusion.adapter.basis import factorize


def falling() -> torch.Tensor:
    """A weight [24, 20] whose singular values fall from 1 by a tenth each."""
    random = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(n, 20, generator=random).double())[0] for n in (24, 20))
    return (U * 0.9 ** torch.arange(20)) @ V.T


def test_learning_comes_closer_with_its_steps_and_factoring_is_there():
    W = falling()
    assert error(W, factorize(W, RANK)) < 1e-6
    assert 1e-3 < error(W, learned(W, 100)) < 1
    assert error(W, learned(W, 2000)) < 1e-3
