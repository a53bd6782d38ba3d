"""What the Train tab's events do: check photos, start, stop and resume, show a training."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ...families import base_name
from ...generation import size_text
from ..studio import (
    ACTIVE_STATES,
    SUCCESS_STATES,
    Entry,
    Preparation,
    Run,
    Workspace,
    class_word,
    proposed_word,
    read_edits,
    servable_copy,
    start_training,
)
from . import render, run_panel
from .events import user_errors

ADVANCED = (
    *("name", "preset", "max_train_steps", "learning_rate", "seed", "resolution"),
    *("center_crop", "random_flip", "license"),
)  # overrides of start_training, in the order of the form
VIEW = 9  # components that show a training


class TrainActions:
    """What the tab's events do."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def phrase(self, subject: str, token: str, name: str, preset: str) -> str:
        """How prompts will call the concept."""
        try:
            word = class_word(subject or "")
        except ValueError:
            return ""
        token = (token or "").strip() or proposed_word(self.workspace, name or word, preset)
        return render.note(f"In prompts you will call it “{token} {word}”.")

    def start(
        self,
        photos: list[str] | None,
        edits: dict,
        guesses: dict,
        subject: str,
        token: str,
        quality: str,
        *advanced: Any,
    ) -> tuple[Any, ...]:
        """Start what the form says, and show it."""
        overrides = dict(zip(ADVANCED, advanced, strict=True))
        for key in ("max_train_steps", "learning_rate", "resolution"):
            overrides[key] = overrides[key] or None  # 0: the quality's, the preset's, the base's
        for key in ("max_train_steps", "resolution", "seed"):
            overrides[key] = None if overrides[key] is None else int(overrides[key])
        with user_errors():
            changes = read_edits(edits, guesses)
            start_training(
                self.workspace, photos, subject, token, quality, edits=changes, **overrides
            )
        return self.show("")

    def stop(self) -> tuple[Any, ...]:
        """Ask the training that is running to stop."""
        if run := self.workspace.runs.active():
            run.stop()
        return self.show("")

    def resume(self) -> tuple[Any, ...]:
        """Resume the training that was stopped or failed."""
        with user_errors():
            self.workspace.runs.resume()
        return self.show("")

    def show(self, seen: str) -> tuple[Any, ...]:
        """The latest training, unless this version of it is shown already.

        Values of: seen, view, go, stop, resume, result, sheet, download, trained.
        """
        run = self.workspace.runs.latest()
        version = run.version() if run else "none"
        if version == seen:
            return (gr.skip(),) * VIEW
        status = run.status() if run else {}
        state = status.get("state")
        active, success = state in ACTIVE_STATES, state in SUCCESS_STATES
        entry = self._entry(status.get("concept")) if success else None
        return (
            version,
            self._view(run, status),
            gr.update(interactive=not active),
            gr.update(visible=active, interactive=not (run and run.stop_requested())),
            gr.update(visible=bool(run and run.resumable())),
            gr.update(visible=entry is not None),
            _sheet(run if success else None),
            _download(entry),
            entry.name if entry else "",
        )

    def _view(self, run: Run | None, status: dict[str, Any]) -> str:
        if run is None:
            return render.empty(
                "Nothing was trained yet",
                "Drop five to ten photos of one thing, say what it is, and press Train.",
            )
        taught = run_panel.Taught(
            run.trigger, base_name(run.base), run.photos(), run.previews(), run.scenes()
        )
        return run_panel.run(status, taught, self._preparation(run, status), run.stop_requested())

    def _preparation(self, run: Run, status: dict[str, Any]) -> Preparation | None:
        return self.workspace.runs.preparation(run) if status.get("state") == "preparing" else None

    def strip(self) -> str:
        """The line on the training that is running, for every tab."""
        run = self.workspace.runs.active()
        if run is None:
            return ""
        status = run.status()
        done = run_panel.percent(status, self._preparation(run, status))
        state = "Stopping" if run.stop_requested() else run_panel.run_title(status)
        share = "" if done is None else f" {done:.0f} %"
        return run_panel.strip(f"{state}: “{run.trigger}”{share}", done)

    def _entry(self, name: str | None) -> Entry | None:
        try:
            return self.workspace.library.get(name or "")
        except ValueError:  # deleted since
            return None


def _sheet(run: Run | None) -> Any:
    path = run.folder / "sheet.png" if run else None
    exists = path is not None and path.is_file()
    return gr.update(value=servable_copy(path) if exists else None, visible=exists)


def _download(entry: Entry | None) -> Any:
    return gr.update(
        value=servable_copy(entry.path) if entry else None,
        label=f"Download ({size_text(entry.card.size)})" if entry else "",
    )
