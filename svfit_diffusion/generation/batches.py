"""A batch of pictures, each with a prompt, a seed and concepts of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ..families import recognise
from ..pool import ConceptPool
from .pictures import Parameters
from .withheld import is_flagged, withheld_card

Kind = tuple[int, float, int, int, bool]


def kind_of(wanted: Parameters) -> Kind:
    """What all pictures of a batch have in common."""
    negative = bool(wanted.negative_prompt)
    return wanted.steps, wanted.guidance, wanted.width, wanted.height, negative


@torch.no_grad()
def generate_batch(pool: ConceptPool, wanted: Sequence[Parameters]) -> list[Image.Image]:
    """The pictures of complete parameters, each as if it were generated alone, to rounding.

    `concepts` of each are those of the pool. Raises ValueError where their number of steps,
    guidance or size differ, or only some have a negative prompt.
    """
    first = wanted[0]
    if any(kind_of(one) != kind_of(first) for one in wanted):
        raise ValueError(
            "pictures of one batch must have the same steps, guidance and size, and all or none of "
            "them a negative prompt; generate the others by themselves."
        )
    family = recognise(pool.pipe)
    texts = [one.prompt for one in wanted], [one.negative_prompt for one in wanted]
    if not all(family.batches(pool.pipe, each) for each in texts):
        return [image for one in wanted for image in generate_batch(pool, [one])]
    each = [family.guidance_kwargs(first.guidance, one.negative_prompt) for one in wanted]
    guidance = each[0]
    if guidance.get("negative_prompt"):
        guidance["negative_prompt"] = [one["negative_prompt"] for one in each]
    output = pool(
        [one.prompt for one in wanted],
        [dict(one.concepts) for one in wanted],
        num_inference_steps=first.steps,
        generator=[torch.Generator().manual_seed(one.seed) for one in wanted],
        **guidance,
        **family.call_kwargs(pool.pipe, first.width, first.height),
    )
    return [
        withheld_card(first.width, first.height) if is_flagged(output, i) else image
        for i, image in enumerate(output.images)
    ]
