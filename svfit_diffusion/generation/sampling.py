"""Pictures from a pipeline with concepts, each with the parameters that made it."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from PIL import Image

from .. import toybox
from ..families import base_name, recognise
from ..pipeline import check_whole, loaded_concepts, pooled, warn_unread_prompt
from .pictures import Parameters
from .withheld import TEXT, is_flagged, withheld_card

log = logging.getLogger(__name__)


def pick_device() -> str:
    """The fastest device here: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(device: str) -> torch.dtype | None:
    """What a base is loaded in to generate: float32 on the CPU, else as it is published."""
    return torch.float32 if device == "cpu" else None


def parameters(pipe: Any, prompt: str, seed: int = 0, **given: Any) -> Parameters:
    """Complete parameters of one picture; what is None or left out takes the base's own value.

    given: negative_prompt, steps, guidance, width, height. Raises ValueError for impossible ones.
    """
    base = base_name(str(getattr(pipe.config, "_name_or_path", "")))
    small = base == "toybox"
    family = recognise(pipe)
    size, multiple, (steps, guidance) = (
        family.size(pipe),
        family.size_multiple(pipe),
        family.sampling(pipe),
    )
    values = {
        "negative_prompt": "",
        "steps": toybox.STEPS if small else steps,
        "guidance": toybox.GUIDANCE if small else guidance,
        "width": size,
        "height": size,
    } | {key: value for key, value in given.items() if value is not None}
    for key in ("width", "height"):
        step = max(8, multiple)
        if values[key] < step or values[key] % step:
            raise ValueError(f"{key} is {values[key]}, but must be a multiple of {step}.")
    if values["steps"] < 1 or values["guidance"] < 0:
        raise ValueError("steps must be at least 1, and guidance must not be below 0.")
    held = loaded_concepts(pipe)
    used = {name: entry.strength for name, entry in held.items() if entry.in_use}
    return Parameters(
        prompt=prompt,
        seed=seed,
        sampler=type(pipe.scheduler).__name__.removesuffix("Scheduler"),
        base=base,
        concepts=(*used.items(), *pooled(pipe).items()),
        **values,
    )


@torch.no_grad()
def generate(
    pipe: Any,
    prompt: str,
    num: int = 1,
    seed: int = 0,
    watch: Callable[[int, torch.Tensor], None] | None = None,
    **given: Any,
) -> Iterator[tuple[Image.Image, Parameters]]:
    """Generate `num` pictures, one after the other, with the seeds seed, seed + 1, ...

    A picture depends on its own seed only, not on `num`. Warns of words that the base does not
    read. watch: called after each denoising step with the steps done and the latents [1, c, h, w]
    as the VAE decodes them. given: as for parameters().
    """
    if num < 1:
        raise ValueError(f"num is {num}, but must be at least 1.")
    if not isinstance(seed, numbers.Integral) or not -(2**63) <= seed <= 2**64 - num:
        raise ValueError(
            f"seed is {seed!r}, but must be a whole number from -2**63 to 2**64 - {num}: each "
            "further picture uses the next seed."
        )
    first, family = parameters(pipe, prompt, seed, **given), recognise(pipe)
    for entry in loaded_concepts(pipe).values():
        if entry.in_use:
            check_whole(pipe, entry)
    for what, text in (("prompt", first.prompt), ("negative prompt", first.negative_prompt)):
        if said := warn_unread_prompt(pipe, text, what):
            log.warning("%s", said)

    def stepped(_: Any, step: int, __: Any, tensors: dict[str, torch.Tensor]) -> dict:
        latents = family.unscale_latents(pipe, tensors["latents"], first.height, first.width)
        watch(step + 1, latents)
        return tensors

    for i in range(num):
        made = replace(first, seed=int(seed) + i)
        output = pipe(
            prompt=made.prompt,  # FLUX.2's first argument is an image
            num_inference_steps=made.steps,
            **family.guidance_kwargs(made.guidance, made.negative_prompt),
            **family.call_kwargs(pipe, made.width, made.height),
            generator=torch.Generator().manual_seed(made.seed),
            **(family.step_kwargs(stepped) if watch else {}),
        )
        if is_flagged(output):
            log.warning("%s: the picture with seed %d.", TEXT, made.seed)
            yield withheld_card(made.width, made.height), made
        else:
            yield output.images[0], made
