"""products.py: an edit of each picture's own, by the edit and by the sum of weights, in float64."""

import pytest
import torch
from torch import nn

from svfit_diffusion.adapter.products import each, edited

torch.manual_seed(0)
PICTURES, ROUNDS, TOKENS, IN, OUT, RANK = 3, 2, 5, 6, 7, 4
X = torch.randn(ROUNDS * PICTURES, TOKENS, IN, dtype=torch.float64)
U, V = torch.randn(OUT, RANK, dtype=torch.float64), torch.randn(IN, RANK, dtype=torch.float64)
DELTAS = torch.randn(PICTURES, RANK, dtype=torch.float64)
BASE = nn.Linear(IN, OUT, dtype=torch.float64).requires_grad_(False)


def one_by_one(x):
    """Each row by the dense weight of its picture: first all pictures, then all again."""
    rows = []
    for number, row in enumerate(x):
        weight = BASE.weight + (U * DELTAS[number % PICTURES]) @ V.T
        rows.append(row @ weight.T + BASE.bias)
    return torch.stack(rows)


@pytest.mark.parametrize("x", [X, X[:PICTURES]])
def test_each_row_has_the_edit_of_its_picture(x):
    assert torch.allclose(edited(BASE(x), x, U, V, DELTAS), one_by_one(x))
    weights = BASE.weight + (U * DELTAS.unsqueeze(-2)) @ V.T
    assert torch.allclose(each(x, weights, BASE), one_by_one(x))


@pytest.mark.parametrize("grad", [True, False])
def test_one_edit_for_all_rows_leaves_what_it_was_given(grad):
    x, delta, before = X[..., ::2].repeat(1, 1, 2), DELTAS[0], X.clone()
    with torch.set_grad_enabled(grad):
        result = BASE(x) + 0
        found = edited(result.clone(), x, U, V, delta)
    assert torch.allclose(found, result + ((x @ V) * delta) @ U.T)
    assert torch.equal(X, before)
