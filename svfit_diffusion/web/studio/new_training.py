"""Starting a training from what a user gave: photos, what they show, how long to train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...settings import PRESETS, TrainConfig
from ...sharing import check_word
from .library import slug
from .photo_edits import Edit
from .photos import save_photos
from .presets import make_config
from .runs import Run
from .words import class_word, unused_word
from .workspace import Workspace


def start_training(
    workspace: Workspace,
    photos: Sequence[str] | None,
    subject: str,
    token: str,
    quality: str,
    *,
    name: str = "",
    edits: Mapping[str, Edit] | None = None,
    **overrides: Any,
) -> Run:
    """Start a training on the base in use; ValueError where it cannot start.

    subject: what the photos show, "a dog". token: the word that calls it; one is proposed where it
    is empty. name: in the library, by default the subject. edits: of photos, by their paths.
    overrides: fields of make_config.
    """
    word = class_word(subject)
    token = (token or "").strip() or proposed_word(workspace, name or word, overrides.get("preset"))
    check_word(token)
    name = slug(name or word)
    with workspace.runs.new_run() as run:
        base = workspace.pipeline.source
        settings = make_config(base, run.folder, name, token, word, quality, **overrides)
        if not save_photos(photos or [], run.folder / "photos", edits, f"{token} {word}"):
            raise ValueError("Drop some photos of one thing first: five to ten are best.")
        run.write_config({"training": settings, "trigger": f"{token} {word}", "name": name})
    return run


def proposed_word(workspace: Workspace, name: str, preset: str | None = None) -> str:
    """A word for a concept of this name, as the base in use and the preset learn or read it."""
    trained = PRESETS.get(preset or "", {}).get("train_token", TrainConfig.train_token)
    learned = trained and not workspace.pipeline.family.frozen_text_encoders
    return unused_word(workspace.library, name, learned)
