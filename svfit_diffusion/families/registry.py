"""The list of families, and how a base's family is recognised."""

from __future__ import annotations

import itertools
from typing import Any

from .auraflow import AuraFlow
from .base import Family
from .chroma import Chroma
from .cogview4 import CogView4
from .flux import Flux
from .flux2 import Flux2, Flux2Klein
from .hidream import HiDream
from .ideogram4 import Ideogram4
from .krea2 import Krea2
from .lumina2 import Lumina2
from .pixart import PixArtSigma
from .qwen_image import QwenImage
from .sana import Sana
from .sd import StableDiffusion, StableDiffusionXL
from .sd3 import StableDiffusion3
from .zimage import ZImage

FAMILIES: tuple[Family, ...] = (
    StableDiffusion(),
    StableDiffusionXL(),
    StableDiffusion3(),
    Flux(),
    Flux2Klein(),
    Flux2(),
    ZImage(),
    QwenImage(),
    Krea2(),
    Chroma(),
    HiDream(),
    Lumina2(),
    Sana(),
    Ideogram4(),
    AuraFlow(),
    PixArtSigma(),
    CogView4(),
)


def recognise(pipe: Any) -> Family:
    """The family of a pipeline, by its class or its models. Raises ValueError if unsupported."""
    names = [kind.__name__ for kind in type(pipe).__mro__]
    kinds = ((family, {*family.pipelines, *family.editing}) for family in FAMILIES)
    by_class = (family for family, known in kinds if {*names} & known)
    by_models = (family for family in FAMILIES if family.recognises(pipe))
    for family in itertools.chain(by_class, by_models):
        return family
    return family_named(names[0])


def family_named(kind: str) -> Family:
    """The family of a pipeline class, by its name. Raises ValueError if none supports it."""
    for family in FAMILIES:
        if kind in (*family.pipelines, *family.editing):
            return family
    known = ", ".join(name for family in FAMILIES for name in family.pipelines)
    raise ValueError(f"{kind} is not supported; load the base as one of: {known}.")


def family_of_original(kind: str) -> Family:
    """The family of a single-file checkpoint, by diffusers' name for its kind."""
    for family in FAMILIES:
        if kind in family.original:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.original)
    raise ValueError(
        f"it is a checkpoint of the kind {kind!r}, but single files can be of the kinds {known}"
    )
