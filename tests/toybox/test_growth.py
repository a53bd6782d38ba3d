"""recipes/toybox/unet_model.py: a larger UNet begins as the smaller one."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "recipes" / "toybox"))

from unet_model import build_unet, carried_over, layers_of  # noqa: E402

WIDTHS = (16, 32, 48)


@pytest.mark.parametrize("layers", [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 3), (3, 2, 2)])
def test_a_grown_unet_computes_what_the_smaller_one_does(layers):
    torch.manual_seed(0)
    small, grown = build_unet(WIDTHS, (1, 1, 1)), build_unet(WIDTHS, layers)
    weights = carried_over(small.state_dict(), grown)
    grown.load_state_dict(weights)
    assert layers_of(grown.state_dict()) == layers
    noisy, states = torch.randn(2, 16, 16, 16), torch.randn(2, 40, 192)
    with torch.no_grad():
        times = torch.tensor([999, 10])
        wanted, found = (net(noisy, times, states).sample for net in (small, grown))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_what_is_new_can_learn():
    torch.manual_seed(0)
    small, grown = build_unet(WIDTHS, (1, 1, 1)), build_unet(WIDTHS, (1, 2, 2))
    grown.load_state_dict(carried_over(small.state_dict(), grown))
    grown(
        torch.randn(2, 16, 16, 16), 500, torch.randn(2, 40, 192)
    ).sample.square().mean().backward()
    ends = ("conv2.weight", "proj_out.weight")
    silent = [
        p for name, p in grown.named_parameters() if name.endswith(ends) and not p.detach().any()
    ]
    assert len(silent) == 8, "a residual block and an attention on each way down and up"
    assert all(parameter.grad.abs().max() > 0 for parameter in silent)
