"""What of a base is on the training's device, and when: `--offload`.

"model": a component comes to the device for its own stage (the VAE for photos, text encoders for
prompts) and leaves; what is trained stays. "block": the denoiser's blocks come one at a time too,
in each pass. Everything else waits in main memory.

Blocks are lent to the device: for one call, copies of a block's frozen weights stand in its place.
diffusers' group offloading and accelerate's hooks move the weights themselves, and with them the
deltas, whose optimizer then finds them in main memory; and they wait for the end of a call that
recomputing for the gradient (`gradient_checkpointing`) cuts short, so that blocks pile up.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..families import Place, instead_of
from ..pipeline import without_vectors
from .adapted_base import AdaptedBase

MAIN_MEMORY = torch.device("cpu")


@contextlib.contextmanager
def at_work(base: AdaptedBase, parts: Iterable[str]) -> Iterator[None]:
    """Some components of a pipeline on the training's device; afterwards each where it was.

    The trained vectors of a word stay where they are.
    """
    held = {part: getattr(base.pipe, part, None) for part in parts}
    models = [model for model in held.values() if isinstance(model, nn.Module)]
    places = [model.device for model in models]
    try:
        for model in models:
            _move(model, base.device)
        yield
    finally:
        for model, place in zip(models, places, strict=True):
            _move(model, place)


@contextlib.contextmanager
def one_at_a_time(base: AdaptedBase, offload: str) -> Iterator[None]:
    """For pictures: with `offload`, each model is on the device only while it works."""
    if offload == "no":
        yield
        return
    pipe = base.pipe
    models = [model for model in pipe.components.values() if isinstance(model, nn.Module)]
    places = [model.device for model in models]
    vectors = [row for part in base.outputs for row in base.learned_rows(part)]
    homes = [row.device for row in vectors]
    pipe.enable_model_cpu_offload(device=base.device)
    try:
        yield
    finally:
        pipe.remove_all_hooks()
        for model, place in zip(models, places, strict=True):
            model.to(place)
        for row, home in zip(vectors, homes, strict=True):
            row.data = row.data.to(home)


def offload_blocks(
    denoiser: nn.Module, device: torch.device, home: torch.device = MAIN_MEMORY
) -> int:
    """Keep the frozen weights of a denoiser's blocks at `home`, main memory; each call of a block
    takes copies on `device`. Returns how many bytes wait there.

    Moving the model moves what is not in blocks, and of blocks the deltas with their bases.
    Casting it casts all.
    """
    waiting = 0
    for block in blocks(denoiser):
        places = [
            (module._parameters, name)
            for module in block.modules()
            for name, weight in module._parameters.items()
            if weight is not None and not weight.requires_grad
        ]
        for held, name in places:
            held[name].data = held[name].data.to(home)
            waiting += held[name].nbytes
        block.forward = functools.partial(_forward, block.forward, places, device)
        block._apply = functools.partial(_apply, block, places)
    return waiting


def blocks(denoiser: nn.Module) -> Iterator[nn.Module]:
    """The modules that gradient checkpointing recomputes: those in the lists of a module that does
    it, and that do not do it themselves.
    """
    for owner in (m for m in denoiser.modules() if hasattr(m, "gradient_checkpointing")):
        for members in (m for m in owner.children() if isinstance(m, nn.ModuleList)):
            for block in members:
                inside = any(hasattr(m, "gradient_checkpointing") for m in block.modules())
                if not inside and any(True for _ in block.parameters()):
                    yield block


def lend(weight: Tensor, device: torch.device) -> Tensor:
    """A copy of a frozen weight for a block at work."""
    return weight.detach().to(device, copy=True)


def _forward(
    forward: Callable[..., Any],
    places: list[Place],
    device: torch.device,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """A block's own forward, with copies of its weights on the device."""
    with instead_of(places, lambda weight: lend(weight, device)):
        return forward(*args, **kwargs)


def _apply(
    block: nn.Module, places: list[Place], change: Callable, recurse: bool = True
) -> nn.Module:
    """What `to` does to a block: its weights are cast, but wait where they are."""
    with instead_of(places, lambda weight: None):
        type(block)._apply(block, change, recurse)
    for held, name in places:
        weight = held[name]
        weight.data = weight.data.to(change(weight.data.new_empty(0)).dtype)
    return block


def _move(model: nn.Module, device: torch.device) -> None:
    with without_vectors(model):
        model.to(device)
