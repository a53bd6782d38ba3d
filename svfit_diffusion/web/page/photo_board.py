"""The board of photos: each as the model sees it, with its caption, to crop or to leave out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gradio as gr

from ...data import CAPTION_SUFFIXES
from ..studio import MAX_PHOTOS, MAX_PROMPT, MAX_ZOOM, PHOTO_SUFFIXES, WHOLE, WORDS, Workspace
from .events import CHECKING, QUEUED, UNQUEUED, hidden_textbox
from .photo_actions import PhotoActions


@dataclass(frozen=True)
class PhotoBoard:
    """What the rest of the tab uses. edits, guesses: see PhotoActions.

    take_sample: what a click on `sample` does; it returns the photos and what they show.
    """

    photos: gr.File
    sample: gr.Button
    take_sample: Callable[[], tuple[list[str], str]]
    edits: gr.JSON
    guesses: gr.JSON


def build_board(workspace: Workspace, center: gr.Checkbox) -> PhotoBoard:
    """Lay out the board and connect it. center: whether long photos are cropped to their middle."""
    actions = PhotoActions(workspace)
    photos = gr.File(
        label=f"Photos of one thing: drop 5 to 10 (at most {MAX_PHOTOS})",
        file_count="multiple",
        file_types=[*PHOTO_SUFFIXES, *CAPTION_SUFFIXES],
        height=150,
        elem_id="photos",
    )
    sample = gr.Button("Try it with the sample: five pictures of a toy robot", size="sm")
    message, known = gr.HTML(), gr.HTML(elem_id="known")
    tiles, owners = _tiles(), gr.State([])
    edits, guesses = (gr.JSON({}, visible="hidden") for _ in range(2))
    chosen = hidden_textbox()
    with gr.Group(visible=False, elem_id="photo-editor") as editor:
        picture, caption, sliders, out, done = _editor()
    shown = [tiles, owners, message, chosen, editor]
    show = (actions.show, [photos, center, edits, guesses], shown)
    looking = {"api_visibility": "private", "show_progress_on": message, "concurrency_limit": 2}
    photos.change(*show, **looking).then(  # what the model sees is shown first: it is quick
        actions.check, [photos, edits], [known, guesses], show_progress_on=known, **CHECKING
    )
    for event in (center.change, done.click):
        event(*show, **looking)
    seen = [photos, center, edits, guesses, chosen, caption]
    guesses.change(actions.show_guesses, seen, [*shown[:3], caption], **looking)
    opened = [chosen, editor, picture, caption, *sliders]
    tiles.select(actions.pick, [photos, owners, edits, guesses], opened, **QUEUED)
    for event in (caption.input, caption.blur):  # Gradio hears keys, but no paste
        event(None, [caption, edits, chosen], edits, js=_noting("caption"), **UNQUEUED)
    for slider, key, share in zip(sliders, WHOLE, (1, 100, 100), strict=True):
        slider.input(None, [slider, edits, chosen], edits, js=_noting(key, share), **UNQUEUED).then(
            actions.preview,
            [photos, chosen, edits],
            picture,
            trigger_mode="always_last",
            **UNQUEUED,
        )
    out.click(actions.leave_out, [photos, chosen], photos, **QUEUED)
    return PhotoBoard(photos, sample, actions.sample, edits, guesses)


def _noting(key: str, share: float = 0) -> str:
    """JavaScript that notes a value of the photo that is open: a click that follows at once has it.

    share: what the value is divided by; 0 for a text.
    """
    noted = f"(value || 0) / {share}" if share else "value"
    return f"""(value, edits, path) =>
        path ? {{...edits, [path]: {{...edits[path], {key}: {noted}}}}} : edits"""


def _tiles() -> gr.Gallery:
    return gr.Gallery(
        label="Photos as the model will see them",
        show_label=False,
        format="png",
        columns=5,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=False,
        elem_id="views",
    )


def _editor() -> tuple[gr.HTML, gr.Textbox, list[gr.Slider], gr.Button, gr.Button]:
    """The photo that is open: picture, caption, zoom and place, buttons to leave it out and end."""
    picture = gr.HTML(elem_id="photo")
    caption = gr.Textbox(
        label="Caption",
        info=f"{WORDS} stands for its word and what it is. Say what is around it; if it is empty, "
        "the base is asked.",
        placeholder=f"a photo of {WORDS} on a table",
        max_length=MAX_PROMPT,
        elem_id="caption",
    )
    with gr.Row():
        zoom = gr.Slider(
            1, MAX_ZOOM, 1, step=0.1, label="Zoom", info="1: all of it.", min_width=120, buttons=[]
        )
        across, down = (
            gr.Slider(0, 100, 50, step=1, label=label, info=info, min_width=120, buttons=[])
            for label, info in (
                ("Across", "0: left, 100: right."),
                ("Down", "0: top, 100: bottom."),
            )
        )
    with gr.Row(elem_classes="actions"):
        done = gr.Button("Done", size="sm", min_width=80, elem_id="photo-done")
        out = gr.Button("Leave it out", size="sm", min_width=80, elem_id="leave-out")
    return picture, caption, [zoom, across, down], out, done
