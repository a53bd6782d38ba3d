"""Starting a training from what a user gave: photos, what they show, how long to train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .library import slug
from .photos import save_photos
from .presets import make_config
from .runs import Run
from .words import check_token, class_word, unused_token
from .workspace import Workspace


def start_training(
    workspace: Workspace,
    photos: Sequence[str] | None,
    subject: str,
    token: str,
    quality: str,
    *,
    name: str = "",
    **overrides: Any,
) -> Run:
    """Start a training on the base in use; ValueError where it cannot start.

    subject: what the photos show, "a dog". token: the trigger; an unused one where it is empty.
    name: in the library, by default the subject. overrides: fields of make_config.
    """
    word = class_word(subject)
    token = (token or "").strip() or unused_token(workspace.library)
    check_token(token)
    name = slug(name or word)
    with workspace.runs.new_run() as run:
        base = workspace.pipeline.source
        settings = make_config(base, run.folder, name, token, word, quality, **overrides)
        if not save_photos(photos or [], run.folder / "photos"):
            raise ValueError("Drop some photos of one thing first: five to ten are best.")
        run.write_config({"training": settings, "trigger": f"{token} {word}"})
    return run
