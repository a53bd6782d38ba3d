"""The Share tab: a stranger's file is checked, looked at and added; one's own are given away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr
from PIL import Image

from ..studio import (
    DRAWING,
    QUEUED,
    QUICK,
    Drawing,
    Job,
    Workspace,
    escaped,
    packed_lora,
    read_card,
    served,
    user_errors,
)
from . import render

UNDO = "Bring back what was deleted last"


class Shelf:
    """What the tab does."""

    def __init__(self, desk: Workspace, drawing: Drawing) -> None:
        self.desk, self.drawing = desk, drawing

    def inspect(self, path: str | None) -> tuple[Any, ...]:
        """What a file is, whether it can be previewed, whether it can be added."""
        hidden = gr.update(visible=False)
        if not path:
            return "", hidden, hidden, None, None
        try:
            card = read_card(path)
        except ValueError as error:
            said = f'<div class="facts"><p class="verdict no">{escaped(error)}</p></div>'
            return said, hidden, hidden, None, None
        reason = self.desk.studio.misfit(card)
        fits = gr.update(visible=not reason)
        return render.facts(card, reason), fits, gr.update(visible=True), None, None

    def preview(self, path: str | None, window: gr.Request) -> Iterator[tuple[Any, str]]:
        """Draw one picture with a file that is not in the library."""
        with user_errors():
            card = read_card(path or "")
            self.desk.studio.check(card)
            prompt = f"a photo of {card.trigger}"
            job = Job([(card, 1.0)], prompt, 1, 0, {})
            for made, live in self.drawing.pictures(window.session_hash, job):
                picture = gr.skip()
                if made:
                    with Image.open(made[0][0]) as image:
                        picture = image.convert("RGB")
                yield picture, live

    def add(self, path: str | None, picture: Image.Image | None) -> tuple[Any, ...]:
        """Put a file into the library."""
        with user_errors():
            name = self.desk.library.add(path or "", preview=picture)
        gr.Info(f"{name} is in your library.")
        hidden = gr.update(visible=False)
        return None, "", hidden, hidden, None, self.desk.version()

    def export(self, name: str) -> Any:
        """A concept as a LoRA for other programs, to be downloaded."""
        with user_errors():
            return gr.update(value=packed_lora(self.desk, name), visible=True)

    def delete(self, name: str) -> tuple[str, Any]:
        """Delete a concept; it can be brought back."""
        with user_errors():
            self.desk.library.delete(name)
        return self.desk.version(), gr.update(visible=True, value=f"Bring back {name}")

    def undo(self) -> tuple[str, Any]:
        """Bring back what was deleted last."""
        with user_errors():
            name = self.desk.library.undo()
        gr.Info(f"{name} is back.")
        return self.desk.version(), gr.update(visible=False)


def build_share(desk: Workspace, drawing: Drawing, version: gr.Textbox) -> None:
    """Lay out the tab and connect it."""
    shelf, picture = Shelf(desk, drawing), gr.State(None)
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            file = gr.File(
                label="A concept file that somebody gave you",
                file_types=[".safetensors"],
                height=150,
                elem_id="strange",
            )
            said = gr.HTML(elem_id="facts")
            with gr.Row():
                look = gr.Button("Preview", visible=False, elem_id="look")
                add = gr.Button(
                    "Add to my library", variant="primary", visible=False, elem_id="add"
                )
            live = gr.HTML()
            seen = gr.Image(
                show_label=False,
                interactive=False,
                visible=False,
                format="png",
                type="pil",
                buttons=[],
                height=256,
                elem_id="seen",
            )
        with gr.Column(scale=6, min_width=320):
            gr.Markdown("### My library")
            undo = gr.Button(UNDO, visible=False, size="sm", elem_id="undo")
            _shelf(desk, shelf, version, undo)
    file.change(shelf.inspect, file, [said, look, add, picture, seen], **QUICK)
    look.click(
        shelf.preview,
        file,
        [picture, live],
        show_progress_on=live,
        **DRAWING,
    )
    picture.change(
        lambda image: gr.update(value=image, visible=bool(image)), picture, seen, **QUICK
    )
    add.click(shelf.add, [file, picture], [file, said, look, add, picture, version], **QUEUED)
    undo.click(shelf.undo, None, [version, undo], **QUEUED)


def _shelf(desk: Workspace, shelf: Shelf, version: gr.Textbox, undo: gr.Button) -> None:
    """The library's concepts, each to be downloaded or deleted."""

    @gr.render(triggers=[version.change], show_progress="hidden", concurrency_limit=None)
    def cards() -> None:
        entries = desk.library.entries()
        if not entries:
            gr.HTML(render.empty("Nothing to share yet", "Train a concept: it comes here."))
            return
        with gr.Row(elem_classes="cards"):
            for entry in entries:
                with gr.Column(elem_classes="card", min_width=220):
                    gr.HTML(render.concept(entry))
                    with gr.Row(elem_classes="dial"):
                        gr.DownloadButton("Download", served(entry.path), size="sm", min_width=80)
                        other = gr.Button("As LoRA", size="sm", min_width=80)
                        gone = gr.Button("Delete", size="sm", min_width=80)
                    lora = gr.File(visible=False, interactive=False, show_label=False)
                other.click(
                    lambda name=entry.name: shelf.export(name),
                    None,
                    lora,
                    api_visibility="private",
                    show_progress_on=lora,
                    concurrency_id="draw",
                    concurrency_limit=1,
                )
                gone.click(
                    lambda name=entry.name: shelf.delete(name),
                    None,
                    [version, undo],
                    **QUEUED,
                )
