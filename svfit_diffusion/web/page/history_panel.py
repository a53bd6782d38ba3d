"""The pictures made before: a strip that survives a reload, and what can be done with one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import gradio as gr

from ..studio import SHOWN, Workspace, servable_copy
from . import render
from .events import QUEUED, UNQUEUED, hidden_textbox, user_errors, warn


class HistoryActions:
    """What the strip's events do."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def show(self, seen: str) -> tuple[Any, Any, Any]:
        """The newest pictures, unless this version of the folder is shown already.

        Values of: strip, seen, panel.
        """
        now = self.workspace.history.version()
        if now == seen:
            return gr.skip(), gr.skip(), gr.skip()
        shown = []
        for picture in self.workspace.history.last():
            with contextlib.suppress(FileNotFoundError):  # deleted just now
                shown.append((servable_copy(picture.path), picture.caption))
        return shown, now, gr.update(visible=bool(shown))

    def select(self, gallery: list | None, event: gr.SelectData) -> tuple[str, str, Any]:
        """The name and the parameters of the picture that was clicked."""
        path = gallery[event.index][0] if gallery and event.index < len(gallery) else ""
        with user_errors():
            picture = self.workspace.history.get(Path(path).name)
        text = picture.parameters.to_infotext() if picture.parameters else ""
        return picture.path.name, text, gr.update(visible=True)

    def open(self, gallery: list | None, event: gr.SelectData) -> tuple[Any, ...]:
        """The same of a picture of the strip, and the picture itself, large, in the gallery."""
        found = self.select(gallery, event)
        picture = self.workspace.history.get(found[0])
        shown = [(servable_copy(picture.path), picture.made or picture.path.name)]
        return *found, gr.update(value=shown, columns=1)

    def delete(self, name: str) -> tuple[str, str, Any]:
        """Delete the picture that was clicked last."""
        with user_errors():
            self.workspace.history.delete(name)
        return "", "", gr.update(visible=False)

    def archive(self) -> Any:
        """All pictures, to be downloaded."""
        try:
            return gr.update(value=str(self.workspace.history.archive()), visible=True)
        except ValueError as error:
            warn([str(error)])
            return gr.skip()


def build_history(
    workspace: Workspace,
    name: gr.Textbox,
    text: gr.Textbox,
    details: gr.Group,
    pictures: gr.Gallery,
) -> HistoryActions:
    """Lay out the strip.

    name, text, details: of the picture that was clicked, for its buttons. pictures: where it is
    shown large.
    """
    actions, seen = HistoryActions(workspace), hidden_textbox()
    with gr.Accordion("Pictures made before", visible=False, elem_id="history-panel") as panel:
        strip = gr.Gallery(
            label=f"The last {SHOWN} pictures",
            show_label=False,
            elem_id="history",
            format="png",
            columns=6,
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            buttons=[],
        )
        folder = f" All are kept in {_shown(workspace.history.folder)}." if workspace.local else ""
        with gr.Row(elem_classes="controls"):
            gr.HTML(render.note(f"Click one to see it large, and to use it again.{folder}"))
            pack = gr.Button("Download all", size="sm", min_width=120, scale=0, elem_id="pack")
        archive = gr.File(visible=False, interactive=False, show_label=False)
    strip.select(actions.open, strip, [name, text, details, pictures], **QUEUED)
    pack.click(actions.archive, None, archive, **QUEUED)
    gr.Timer(2).tick(actions.show, seen, [strip, seen, panel], **UNQUEUED)
    return actions


def _shown(folder: Path) -> str:
    """A folder as people call it: below the home folder it begins with "~"."""
    home = Path.home()
    return (
        f"~/{folder.relative_to(home).as_posix()}" if folder.is_relative_to(home) else str(folder)
    )
