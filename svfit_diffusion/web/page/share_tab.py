"""The Share tab: check and add a concept file from others, download or delete one's own."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import gradio as gr

from ..studio import Entry, GenerationJobs, Workspace, servable_copy
from . import render
from .events import ONE_AT_A_TIME, QUEUED, UNQUEUED, click_to_generate, click_to_stop
from .share_actions import ShareActions

EXPORTS = (
    "Download: the concept, for this app and for diffusers. Export as LoRA: a ZIP for ComfyUI, "
    "A1111, Forge, InvokeAI and diffusers, with a read-me."
)


def build_share(workspace: Workspace, jobs: GenerationJobs, version: gr.Textbox) -> None:
    """Lay out the tab and connect it."""
    actions, picture = ShareActions(workspace, jobs), gr.State(None)
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            file = gr.File(
                label="A concept file or a LoRA from somebody",
                file_types=[".safetensors"],
                height=150,
                elem_id="concept-file",
            )
            facts = gr.HTML(elem_id="facts")
            usable = gr.State("")
            word = gr.Textbox(
                "",
                label="Its word here",
                info="What calls it in your prompts; another one than your concepts have.",
                visible=False,
                max_length=60,
                elem_id="word",
            )
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
            gr.Markdown("## My library")
            gr.HTML(render.note(EXPORTS))
            _library(actions, version)
            _bin(actions, version)
    inspected = [facts, preview, add, word, picture, shown, usable]
    file.change(actions.inspect, file, inspected, **QUEUED)
    event = click_to_generate(preview, stop, actions.preview, usable, [picture, live], live)
    click_to_stop(stop, preview, actions.stop, event, live)
    picture.change(
        lambda image: gr.update(value=image, visible=bool(image)), picture, shown, **UNQUEUED
    )
    outputs = [file, facts, preview, add, word, picture, version]
    add.click(actions.add, [usable, word, picture], outputs, **QUEUED)


def _library(actions: ShareActions, version: gr.Textbox) -> None:
    """The library's concepts, rendered again when the library changes."""

    @gr.render(triggers=[version.change], show_progress="hidden", concurrency_limit=None)
    def concepts() -> None:
        entries = actions.workspace.library.entries()
        if not entries:
            gr.HTML(render.empty("Nothing to share yet", "A concept that you train appears here."))
            return
        with gr.Row(elem_classes="cards"):
            for entry in entries:
                _concept(actions, entry, version)


def _bin(actions: ShareActions, version: gr.Textbox) -> None:
    """The deleted concepts, each with a button that restores it."""

    @gr.render(triggers=[version.change], show_progress="hidden", concurrency_limit=None)
    def deleted() -> None:
        found = actions.workspace.library.deleted()
        if not found:
            return
        with (
            gr.Accordion(f"Deleted ({len(found)})", open=False, elem_id="bin"),
            gr.Row(elem_classes="controls"),
        ):
            for which in found:
                restore = gr.Button(f"Restore {which.partition('-')[2]}", size="sm", min_width=120)
                restore.click(functools.partial(actions.restore, which), None, version, **QUEUED)


def _concept(actions: ShareActions, entry: Entry, version: gr.Textbox) -> None:
    """A concept with its buttons, which have its name, since a page may have many of them."""
    name = entry.name
    with gr.Column(elem_classes="card", min_width=260):
        gr.HTML(render.concept(entry))
        with gr.Row(elem_classes="controls"):
            gr.DownloadButton(
                f"Download {name}", servable_copy(entry.path), size="sm", min_width=110
            )
            export = gr.Button(f"Export {name} as LoRA", size="sm", min_width=110)
            delete = gr.Button(f"Delete {name}", size="sm", min_width=110)
        lora = gr.File(visible=False, interactive=False, show_label=False)
        if entry.card.concept.learned and len(entry.card.concept.all_triggers()) == 1:
            with gr.Accordion(f"Call {name} by another word", open=False):
                word = gr.Textbox(
                    entry.card.concept.token,
                    label=f"Word of {name}",
                    info="What calls it in prompts from now on.",
                    max_length=60,
                    interactive=True,
                )
                rename = gr.Button(f"Rename {name}", size="sm")
            rename.click(functools.partial(actions.rename, name), word, version, **QUEUED)
    _set_button(export.click, export, f"Making the LoRA of {name}", False)  # it may have to wait
    made = export.click(
        functools.partial(actions.export, name),
        None,
        lora,
        api_visibility="private",
        show_progress_on=lora,
        **ONE_AT_A_TIME,
    )
    for ended in (made.success, made.failure):
        _set_button(ended, export, f"Export {name} as LoRA", True)
    delete.click(functools.partial(actions.delete, name), None, version, **QUEUED)


def _set_button(event: Callable, button: gr.Button, label: str, interactive: bool) -> None:
    """Let the browser set a button at once, whatever the server is busy with."""
    change = json.dumps(gr.update(value=label, interactive=interactive))
    event(None, None, button, js=f"() => ({change})", **UNQUEUED)
