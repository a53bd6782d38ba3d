"""The page: four tabs over one desk, and what keeps them in step with the library and trainings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ..page import (
    Trainer,
    build_base,
    build_compare,
    build_generate,
    build_share,
    build_train,
    describe_base,
)
from ..studio import QUICK, Drawing, Workspace, signal
from .api import build_api

SUBTITLE = "Photos in, pictures out, files of a few KB to share."
QUEUE = 16  # jobs that may wait
CACHE = (3_600, 86_400)  # seconds: look every hour, delete what is older than a day


def build_page(desk: Workspace, names: Sequence[str] = ()) -> gr.Blocks:
    """The page on a desk, with these concepts of its library in use from the start."""
    drawing, trainer = Drawing(desk), Trainer(desk)
    with gr.Blocks(title="SVFit", analytics_enabled=False, delete_cache=CACHE) as page:
        build_api(desk, drawing, trainer)  # first: a name belongs to whoever takes it first
        version = signal()
        gr.Markdown(
            "# SVFit\nPhotos in, pictures out, files of a few KB to share.", elem_id="title"
        )
        place = gr.Column()
        with gr.Tabs(selected="generate" if names else "train") as tabs:
            with gr.Tab("Train", id="train"):
                use, learned, run = build_train(trainer, version)
            with gr.Tab("Generate", id="generate"):
                form = build_generate(desk, drawing, version, names)
            with gr.Tab("Compare", id="compare"):
                build_compare(desk, drawing, version)
            with gr.Tab("Share", id="share"):
                build_share(desk, drawing, version)
        with place:
            said = build_base(desk, version, form.settings)

        def tick(held: str) -> tuple[Any, ...]:
            now = desk.version()
            if now == held.partition("\n")[0]:
                return (gr.skip(),) * 3
            return now, describe_base(desk), gr.update(placeholder=desk.prompt())

        def use_it(name: str, held: dict, now: str) -> tuple[Any, ...]:
            if name not in desk.library.names():
                return (gr.skip(),) * 4
            card = desk.library.get(name).card
            again = f"{desk.version()}\n{now}"[:200]  # the cards are drawn anew
            prompt = f"a photo of {card.trigger} on the beach"
            return held | {name: 1.0}, prompt, gr.update(selected="generate"), again

        shown = [version, said, form.prompt]
        page.load(tick, version, shown, **QUICK)
        page.load(trainer.show, run[0], run, **QUICK)
        gr.Timer(2).tick(tick, version, shown, **QUICK)
        use.click(
            use_it,
            [learned, form.chosen, version],
            [form.chosen, form.prompt, tabs, version],
            **QUICK,
        )
    return page.queue(max_size=QUEUE, api_open=False, default_concurrency_limit=2)
