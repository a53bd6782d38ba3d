"""The Share tab: check and add a concept file from others, download or delete one's own."""

from __future__ import annotations

import gradio as gr

from ..studio import Entry, GenerationJobs, Workspace, servable_copy
from . import render
from .events import ONE_AT_A_TIME, QUEUED, UNQUEUED, click_to_generate
from .share_actions import ShareActions


def build_share(workspace: Workspace, jobs: GenerationJobs, version: gr.Textbox) -> None:
    """Lay out the tab and connect it."""
    actions, picture = ShareActions(workspace, jobs), gr.State(None)
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            file = gr.File(
                label="A concept file that somebody gave you",
                file_types=[".safetensors"],
                height=150,
                elem_id="concept-file",
            )
            facts = gr.HTML(elem_id="facts")
            with gr.Row():
                preview = gr.Button("Preview", visible=False, elem_id="preview")
                stop = gr.Button("Stop", visible=False)
                add = gr.Button(
                    "Add to my library", variant="primary", visible=False, elem_id="add"
                )
            live = gr.HTML()
            shown = gr.Image(
                show_label=False,
                interactive=False,
                visible=False,
                format="png",
                type="pil",
                buttons=[],
                height=256,
                elem_id="previewed",
            )
        with gr.Column(scale=6, min_width=320):
            gr.Markdown("### My library")
            undo = gr.Button("Restore", visible=False, size="sm", elem_id="undo")
            _library(actions, version, undo)
    file.change(actions.inspect, file, [facts, preview, add, picture, shown], **UNQUEUED)
    click_to_generate(preview, stop, actions.preview, file, [picture, live], live)
    picture.change(
        lambda image: gr.update(value=image, visible=bool(image)), picture, shown, **UNQUEUED
    )
    outputs = [file, facts, preview, add, picture, version]
    add.click(actions.add, [file, picture], outputs, **QUEUED)
    undo.click(actions.undo, None, [version, undo], **QUEUED)


def _library(actions: ShareActions, version: gr.Textbox, undo: gr.Button) -> None:
    """The library's concepts, rendered again when the library changes."""

    @gr.render(triggers=[version.change], show_progress="hidden", concurrency_limit=None)
    def concepts() -> None:
        entries = actions.workspace.library.entries()
        if not entries:
            gr.HTML(render.empty("Nothing to share yet", "A concept that you train appears here."))
            return
        with gr.Row(elem_classes="cards"):
            for entry in entries:
                _concept(actions, entry, version, undo)


def _concept(actions: ShareActions, entry: Entry, version: gr.Textbox, undo: gr.Button) -> None:
    """A concept with its buttons."""
    with gr.Column(elem_classes="card", min_width=220):
        gr.HTML(render.concept(entry))
        with gr.Row(elem_classes="controls"):
            gr.DownloadButton("Download", servable_copy(entry.path), size="sm", min_width=80)
            export = gr.Button("As LoRA", size="sm", min_width=80)
            delete = gr.Button("Delete", size="sm", min_width=80)
        lora = gr.File(visible=False, interactive=False, show_label=False)
    export.click(
        lambda: actions.export(entry.name),
        None,
        lora,
        api_visibility="private",
        show_progress_on=lora,
        **ONE_AT_A_TIME,
    )
    delete.click(lambda: actions.delete(entry.name), None, [version, undo], **QUEUED)
