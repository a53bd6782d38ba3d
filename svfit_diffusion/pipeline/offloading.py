"""Pipelines larger than the GPU's memory: what is not at work waits in main memory.

diffusers' own `enable_sequential_cpu_offload` moves a module's weights when that module is called.
Deltas and learned words are read by the layer that holds them, not called, so their layers must be
moved whole: accelerate is told so here. `enable_model_cpu_offload` needs no such care.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import cpu_offload
from torch import nn

KINDS = ("model", "sequential")
WHOLE = ["SVFitLinear", "TriggerEmbedding"]


def offload(pipe: Any, kind: str, device: str | torch.device | None = None) -> None:
    """Let the parts of a pipeline (with its concepts on it) go to the device only to work.

    kind: "model" moves whole components, which is quick; "sequential" single layers, which needs
    the least memory and is slow. device: default the first GPU; ValueError where there is none.
    """
    if kind not in KINDS:
        raise ValueError(f"offload is {kind!r}, but must be one of {', '.join(KINDS)}.")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cpu":
        raise ValueError("offload moves models to a GPU and back, and there is none; leave it out.")
    if kind == "model":
        pipe.enable_model_cpu_offload(device=device)
    else:
        offload_layers(pipe, device)


def offload_layers(pipe: Any, device: torch.device) -> None:
    """The sequential kind, to any device. Buffers (bases among them: small) stay there."""
    for model in pipe.components.values():
        if isinstance(model, nn.Module):
            cpu_offload(model, device, offload_buffers=False, preload_module_classes=WHOLE)
