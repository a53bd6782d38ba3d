"""The page: the base in use above four tabs, which follow the library and the trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ..studio import GenerationJobs, Workspace
from .base_bar import base_in_use, build_base_bar, own_settings
from .compare_tab import build_compare
from .events import QUEUED, UNQUEUED, hidden_textbox
from .form_memory import remember_form
from .generate_tab import GenerateTab, build_generate
from .share_tab import build_share
from .train_actions import TrainActions
from .train_tab import TrainTab, build_train

TITLE = "# SVFit\nPhotos in, pictures out, files of a few KB to share."


def build_page(
    page: gr.Blocks, workspace: Workspace, jobs: GenerationJobs, names: Sequence[str]
) -> None:
    """Lay out the page; to be called within `with page:`.

    names: concepts of the library that are in use from the start.
    """
    actions = TrainActions(workspace)
    version = hidden_textbox()  # of the workspace, as this window shows it
    gr.Markdown(TITLE, elem_id="title")
    above_tabs = gr.Column()
    strip = gr.HTML(elem_id="strip")  # of a running training, in every tab
    with gr.Tabs(selected="generate" if names else "train") as tabs:
        with gr.Tab("Train", id="train"):
            train = build_train(actions, version)
        with gr.Tab("Generate", id="generate"):
            generate = build_generate(workspace, jobs, version, names)
        with gr.Tab("Compare", id="compare"):
            cell, use_cell = build_compare(workspace, jobs, version)
        with gr.Tab("Share", id="share"):
            build_share(workspace, jobs, version)
    with above_tabs:
        base = build_base_bar(workspace, version, generate.settings)
    remember_form(page, workspace, generate.fields, generate.concepts)
    _follow_workspace(page, workspace, version, base, generate)
    page.load(actions.show, train.view[0], train.view, **UNQUEUED)
    gr.Timer(1).tick(actions.strip, None, strip, **UNQUEUED)
    _connect_use(workspace, train, generate, tabs)
    use_cell.click(generate.fill, cell, generate.filled, **QUEUED).then(
        lambda: gr.update(selected="generate"), None, tabs, **UNQUEUED
    )


def _follow_workspace(
    page: gr.Blocks,
    workspace: Workspace,
    version: gr.Textbox,
    base: gr.HTML,
    generate: GenerateTab,
) -> None:
    """Show, within two seconds, what other windows and trainings changed."""

    def update(shown: str) -> tuple[Any, ...]:
        now, shown = workspace.version(), shown.partition("\n")[0]
        own = own_settings(workspace)
        if now == shown:
            return (gr.skip(),) * (3 + len(own))
        other = shown and now.rpartition(" ")[0] != shown.rpartition(" ")[0]  # base, elsewhere
        placeholder = gr.update(placeholder=workspace.example_prompt())
        settings = own if other else [gr.skip()] * len(own)
        return now, base_in_use(workspace), placeholder, *settings

    outputs = [version, base, generate.prompt, *generate.settings]
    page.load(update, version, outputs, **UNQUEUED)
    gr.Timer(2).tick(update, version, outputs, **UNQUEUED)


def _connect_use(
    workspace: Workspace,
    train: TrainTab,
    generate: GenerateTab,
    tabs: gr.Tabs,
) -> None:
    """The button "Use it now" opens the Generate tab with the trained concept in use."""

    def use(name: str, chosen: dict) -> tuple[Any, ...]:
        if name not in workspace.library.names():
            return (gr.skip(),) * 4
        prompt = f"a photo of {workspace.library.get(name).card.trigger} on the beach"
        return chosen | {name: 1.0}, prompt, gr.update(selected="generate"), f"use {name}"

    panel = generate.concepts
    train.use.click(
        use,
        [train.trained, panel.chosen],
        [panel.chosen, generate.prompt, tabs, panel.changed],
        **QUEUED,
    )
