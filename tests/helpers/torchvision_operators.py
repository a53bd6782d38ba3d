"""A pytest plugin, loaded before anything imports torchvision (`-p helpers.torchvision_operators`).

torchvision's package from PyPI is built for CUDA, and cannot be imported beside a torch for the CPU,
since its operators are not there. Nothing here calls them; stand-ins of their names suffice.
"""

import contextlib

import torch

with contextlib.suppress(RuntimeError):
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
