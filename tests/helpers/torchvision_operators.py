"""A pytest plugin that is loaded before anything imports torchvision.

PyPI's torchvision is built for CUDA, and cannot be imported beside a torch for the CPU, since its
operators are not there. Nothing here calls them; stand-ins of their names suffice.
"""

import contextlib

import torch

with contextlib.suppress(RuntimeError):
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")
