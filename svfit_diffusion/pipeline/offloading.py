"""Pipelines larger than the accelerator's memory: what is not at work waits in main memory.

accelerate and diffusers move weights by hooks on the modules that are there when it is enabled.
So hooks are taken off before a concept's layers or weights change, and put on again afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, CpuOffload, SequentialHook
from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
from torch import nn

KINDS = ("model", "sequential")


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
        pipe.enable_sequential_cpu_offload(device=device)


@contextlib.contextmanager
def at_rest(pipe: Any) -> Iterator[None]:
    """While layers or weights change: no offloading hooks on the pipeline; then the same again."""
    models = [model for model in vars(pipe).values() if isinstance(model, nn.Module)]
    hooks = [hook for model in models for hook in _hooks(model)]
    devices = (h.execution_device for m in models if hooks for x in m.modules() for h in _hooks(x))
    device = next((device for device in devices if device is not None), None)
    sequential = [m for m in models if any(isinstance(h, AlignDevicesHook) for h in _hooks(m))]
    if hooks:
        pipe.remove_all_hooks()
    try:
        yield
    finally:
        if hooks and isinstance(hooks[0], CpuOffload):
            pipe.enable_model_cpu_offload(device=device)
        for model in sequential:  # as enable_sequential_cpu_offload does
            cpu_offload(model, device, offload_buffers=len(model._parameters) > 0)
        for model in models:
            if _may_be_grouped(model):
                _maybe_remove_and_reapply_group_offloading(model)


def _may_be_grouped(model: nn.Module) -> bool:
    """Whether diffusers has a hook on a model or on its first layer, as group offloading puts."""
    first = next((module for module in model.modules() if module._parameters), model)
    return "_diffusers_hook" in model.__dict__ or "_diffusers_hook" in first.__dict__


def _hooks(module: nn.Module) -> Iterator[AlignDevicesHook | CpuOffload]:
    """accelerate's hooks of one module."""
    hook = module.__dict__.get("_hf_hook")
    for one in hook.hooks if isinstance(hook, SequentialHook) else (hook,):
        if isinstance(one, AlignDevicesHook | CpuOffload):
            yield one
