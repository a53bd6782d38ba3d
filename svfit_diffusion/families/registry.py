"""The list of families, and how a base's family is recognised."""

from __future__ import annotations

import itertools
from typing import Any

from .base import Family
from .bases.auraflow import AuraFlow
from .bases.chroma import Chroma
from .bases.cogview4 import CogView4
from .bases.flux import Flux
from .bases.flux2 import Flux2, Flux2Klein
from .bases.hidream import HiDream
from .bases.ideogram4 import Ideogram4
from .bases.krea2 import Krea2
from .bases.lumina2 import Lumina2
from .bases.pixart import PixArtSigma
from .bases.qwen_image import QwenImage
from .bases.sana import Sana
from .bases.sd import StableDiffusion, StableDiffusionXL
from .bases.sd3 import StableDiffusion3
from .bases.zimage import ZImage

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
