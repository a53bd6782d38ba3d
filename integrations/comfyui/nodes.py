"""The nodes: Load SVFit Concept, Several Concepts, Concept Info."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import folder_paths

from svfit_diffusion.concept import Concept, printable

from . import folders
from .loading import Strengths, apply_concept

NONE = "none"
SLOTS = 4  # concepts that Several Concepts takes
_STRENGTH = {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.01}
_BASIS = {
    "basis_model": (
        "MODEL",
        {"tooltip": "The base that the concept was trained on, if the model is fine-tuned."},
    ),
    "basis_clip": (
        "CLIP",
        {"tooltip": "The base that the concept was trained on, if the CLIP is fine-tuned."},
    ),
}


def _strength(tooltip: str) -> tuple[str, dict[str, Any]]:
    return "FLOAT", _STRENGTH | {"tooltip": f"{tooltip}: 0 is the base, 1 as trained."}


class LoadConcept:
    """A concept on a MODEL and a CLIP, each at its strength, and the words that call it."""

    CATEGORY = "loaders"
    DESCRIPTION = "Loads a subject that was trained with SVFit, from its file of a few KB."
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "CLIP", "STRING")
    RETURN_NAMES = ("MODEL", "CLIP", "trigger")
    OUTPUT_TOOLTIPS = ("The model.", "The CLIP, which knows the word.", "Put it into the prompt.")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802, ComfyUI's name
        """The inputs of the node."""
        return {
            "required": {
                "model": ("MODEL",),
                "concept": (folders.names(), {"tooltip": "From the folders concepts and loras."}),
                "strength_model": _strength("Of the edit of the model"),
                "strength_clip": _strength("Of the edit of the text encoders"),
                "strength_word": _strength("Of the learned word"),
            },
            "optional": {"clip": ("CLIP",), **_BASIS},
        }

    @classmethod
    def IS_CHANGED(cls, concept: str, **_: Any) -> str:  # noqa: N802
        """A file that was trained anew is loaded anew."""
        return folders.digest(concept)

    def load(
        self,
        model: Any,
        concept: str,
        strength_model: float,
        strength_clip: float,
        strength_word: float,
        clip: Any = None,
        basis_model: Any = None,
        basis_clip: Any = None,
    ) -> tuple[Any, Any, str]:
        """MODEL, CLIP, trigger."""
        found = folders.read(concept)
        strengths = Strengths(strength_model, strength_clip, strength_word)
        model, clip = apply_concept(found, model, clip, strengths, basis_model, basis_clip)
        return model, clip, printable(found.trigger)


class SeveralConcepts:
    """Up to four concepts on a MODEL and a CLIP, each at one strength."""

    CATEGORY = "loaders"
    DESCRIPTION = "Loads several subjects that were trained with SVFit on the same base."
    FUNCTION = "load"
    RETURN_TYPES = ("MODEL", "CLIP", "STRING")
    RETURN_NAMES = ("MODEL", "CLIP", "triggers")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The inputs of the node."""
        slots: dict[str, Any] = {}
        for i in range(1, SLOTS + 1):
            slots[f"concept_{i}"] = ([NONE, *folders.names()],)
            slots[f"strength_{i}"] = _strength("Of model, text encoders and word")
        return {
            "required": {"model": ("MODEL",), **slots},
            "optional": {"clip": ("CLIP",), **_BASIS},
        }

    @classmethod
    def IS_CHANGED(cls, **inputs: Any) -> str:  # noqa: N802
        """As of one concept."""
        return " ".join(folders.digest(name) for name, _ in _chosen(inputs))

    def load(
        self,
        model: Any,
        clip: Any = None,
        basis_model: Any = None,
        basis_clip: Any = None,
        **slots: Any,
    ) -> tuple[Any, Any, str]:
        """MODEL, CLIP, triggers, separated by commas."""
        triggers = []
        for name, strength in _chosen(slots):
            found = folders.read(name)
            strengths = Strengths(strength, strength, strength)
            try:
                model, clip = apply_concept(found, model, clip, strengths, basis_model, basis_clip)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            triggers.append(printable(found.trigger))
        return model, clip, ", ".join(triggers)


def _chosen(slots: dict[str, Any]) -> list[tuple[str, float]]:
    """(concept, strength) of the slots in use, in order."""
    numbers = range(1, SLOTS + 1)
    chosen = [
        (slots[f"concept_{i}"], slots.get(f"strength_{i}", 1.0))
        for i in numbers
        if f"concept_{i}" in slots
    ]
    return [(name, strength) for name, strength in chosen if name != NONE]


class ConceptInfo:
    """What a concept file says of itself, and the picture beside it."""

    CATEGORY = "loaders"
    DESCRIPTION = "Shows what a concept was trained on and how it is called."
    FUNCTION = "show"
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("trigger", "info")
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        """The inputs of the node."""
        return {"required": {"concept": (folders.names(),)}}

    @classmethod
    def IS_CHANGED(cls, concept: str) -> str:  # noqa: N802
        """As of a loaded concept."""
        return folders.digest(concept)

    def show(self, concept: str) -> dict[str, Any]:
        """trigger, info; the page shows the text and the picture."""
        found = folders.read(concept)
        info = describe(found, folders.path_of(concept).stat().st_size)
        shown: dict[str, Any] = {"text": [info]}
        if (picture := folders.preview_of(concept)) is not None:
            shown["images"] = [_published(picture)]
        return {"ui": shown, "result": (printable(found.trigger), info)}


def describe(concept: Concept, size: int) -> str:
    """A concept in a few lines; size: of its file, in bytes."""
    lines = {
        "trigger": concept.trigger,
        "learned word": "yes" if concept.learned else "no",
        "base": concept.base,
        "family": concept.family,
        "rank": concept.rank,
        "values": f"{concept.values:,} in {size:,} bytes",
        "changes": ", ".join(f"{part} ({which})" for part, which in concept.targets.items()),
        "license": concept.license or "not stated",
        "created": concept.created or "not stated",
    }
    training = {f"training: {key}": value for key, value in concept.training.items()}
    return "\n".join(f"{key}: {printable(str(value))}" for key, value in (lines | training).items())


def _published(picture: Path) -> dict[str, str]:
    """A copy of a picture where the page may fetch it from."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    name = f"svfit-{uuid.uuid4().hex}{picture.suffix}"
    shutil.copyfile(picture, folder / name)
    return {"filename": name, "subfolder": "", "type": "temp"}
