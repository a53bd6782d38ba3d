"""What the events of the board of photos do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from ...training import SAMPLE, sample_folder
from ..studio import (
    NO_EDIT,
    WORDS,
    Edit,
    Workspace,
    caption_of,
    inspect_photos,
    preview_photo,
    read_edits,
    servable_copy,
)
from . import render
from .events import user_errors

KNOWN = "Toybox knows such things."
UNKNOWN = (
    "Toybox does not know such things and cannot draw real photos, so it will hardly learn them. "
    "Choose another base above before you train."
)
LOOKED_AT = 4  # photos that decide whether Toybox knows such things
MAX_GUESSED = 20  # photos for which a caption is guessed
TILE = 256  # px
CLOSED = ("", gr.update(visible=False))  # no photo is open


class PhotoActions:
    """What the board's events do. edits, guesses: of photos by their paths, see read_edits."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @property
    def size(self) -> int:
        """Pixels of what the base in use sees."""
        return self.workspace.pipeline.defaults.width

    def show(
        self, paths: Sequence[str] | None, center: bool, edits: dict, guesses: dict
    ) -> tuple[Any, ...]:
        """The photos as the model will see them, and a sentence about them; none is open.

        Values of: tiles, owners (the photo of each tile), message, chosen, editor.
        """
        with user_errors():
            found = inspect_photos(paths, self.size, center, read_edits(edits, guesses))
        count, tiles = len(found.usable), []
        for image, text in found.crops:
            image.thumbnail((TILE, TILE))
            tiles.append((image, text))
        text = f"{count} photo{'' if count == 1 else 's'} as the model will see them."
        if count:
            text += " Click one to crop it, to caption it or to leave it out."
        if 0 < count < 4:
            text += " Five to ten, from several sides, give a better likeness."
        if marked := [f"{i} ({mark})" for i, mark in enumerate(found.marks, 1) if mark]:
            text += f" Better left out: {', '.join(marked)}."
        if found.refused:
            text += f" {len(found.refused)} skipped: {' '.join(found.refused)}"
        board = gr.update(value=tiles, visible=bool(tiles), selected_index=None)
        owners = [found.usable[owner] for owner in found.owners]
        return board, owners, render.note(text if paths else ""), *CLOSED

    def check(self, paths: Sequence[str] | None, edits: dict) -> Iterator[tuple[str, Any]]:
        """Whether Toybox knows such things as the photos show, before an hour is spent.

        Where it does, captions are guessed for those without one: verdict, guesses.
        """
        with user_errors():
            found = inspect_photos(paths, self.size, True, read_edits(edits))
        pipeline = self.workspace.pipeline
        if not found.crops or not pipeline.is_toybox:
            yield "", {}
            return
        images = [image for image, _ in found.crops[:MAX_GUESSED]]
        first = pipeline.familiarity(images[:LOOKED_AT])
        if not first.known:
            yield render.verdict("no", UNKNOWN), {}
            return
        yield render.verdict("yes", KNOWN), gr.skip()
        phrases = list(first.phrases)
        for image in images[LOOKED_AT:]:
            phrases += pipeline.familiarity([image]).phrases or ("",)
        guesses = {
            path: f"a photo of {WORDS} {phrase}"
            for path, text, phrase in zip(found.usable, found.texts, phrases, strict=False)
            if phrase and not text
        }
        yield gr.skip(), guesses

    def show_guesses(
        self,
        paths: Sequence[str] | None,
        center: bool,
        edits: dict,
        guesses: dict,
        path: str,
        caption: str,
    ) -> tuple[Any, ...]:
        """The photos with captions that came just now; what is open stays so.

        path, caption: of the photo that is open. Values of: tiles, owners, message, caption.
        """
        tiles, owners, message, *_ = self.show(paths, center, edits, guesses)
        written = caption or "caption" in edits.get(path, {})
        return tiles, owners, message, gr.skip() if written else guesses.get(path, "")

    def sample(self) -> tuple[list[str], str]:
        """The sample's photos, and what they show."""
        paths = sorted(sample_folder().glob("*.png"))
        return [servable_copy(path) for path in paths], f"a toy {SAMPLE}"

    def pick(
        self,
        paths: Sequence[str] | None,
        owners: Sequence[str],
        edits: dict,
        guesses: dict,
        event: gr.SelectData,
    ) -> tuple[Any, ...]:
        """Open the photo that was clicked.

        Values of: chosen, editor, picture, caption, zoom, across, down.
        """
        path = owners[event.index] if event.index < len(owners) else ""
        with user_errors():
            edit = self._edit(path, edits, guesses)
            text = caption_of(path, paths or [], edit)
        numbers = edit.zoom, 100 * edit.x, 100 * edit.y
        return path, gr.update(visible=True), self.preview(paths, path, edits), text, *numbers

    def _edit(self, path: str, edits: dict, guesses: dict) -> Edit:
        return read_edits(edits, guesses).get(path, NO_EDIT)

    def preview(self, paths: Sequence[str] | None, path: str, edits: dict) -> str:
        """What the model sees of the photo that is open."""
        if path not in (paths or []):
            return ""
        with user_errors():
            edit = self._edit(path, edits, {})
            return render.pictures([(preview_photo(path, self.size, edit), "as the model sees it")])

    def leave_out(self, paths: Sequence[str] | None, path: str) -> list[str]:
        """All photos but the one that is open, with their captions' files."""
        return [other for other in paths or [] if other != path]
