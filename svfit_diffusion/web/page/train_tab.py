"""The Train tab: photos, what they show, one button; then the training as it goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr

from ...concept import printable
from ...data import CAPTION
from ...generation import size_text
from ...settings import AUTO, PRESETS, TrainConfig
from ..studio import (
    GOING,
    MAX_PHOTOS,
    MAX_SEED,
    MAX_TRAIN_STEPS,
    MAX_WORDS,
    QUALITIES,
    QUEUED,
    QUICK,
    SUFFIXES,
    Run,
    Workspace,
    class_word,
    inspect_photos,
    make_config,
    propose_token,
    save_photos,
    served,
    slug,
    user_errors,
    warn,
)
from . import snippets


class Trainer:
    """What the tab does."""

    def __init__(self, desk: Workspace) -> None:
        self.desk = desk

    def token(self) -> str:
        """A trigger word that is free."""
        entries = self.desk.library.entries()
        return propose_token([c.word for entry in entries for c in entry.card.concept.calls()])

    def look(self, paths: list[str] | None, center: bool) -> tuple[str, str]:
        """The photos as the model will see them, and a sentence on those that were skipped."""
        found = inspect_photos(paths, self.desk.studio.defaults.width, center)
        warn(found.refused)
        count = len(found.usable)
        said = f"{count} photo{'' if count == 1 else 's'} as the model will see them."
        if 0 < count < 4:
            said += " Five to ten, from several sides, give a better likeness."
        if found.refused:
            said += f" {len(found.refused)} skipped: {' '.join(found.refused)}"
        return snippets.views(found.views), snippets.note(said if paths else "")

    def start(
        self, photos: list[str] | None, what: str, token: str, quality: str, **given: Any
    ) -> Run:
        """Start a training; ValueError where it cannot start."""
        word = class_word(what)
        token = (token or "").strip() or self.token()
        if len(token) > MAX_WORDS or any(c.isspace() or not c.isprintable() for c in token):
            raise ValueError(f"The trigger {printable(token, 60)!r} must be one short word.")
        base, name = self.desk.studio.source, slug(given.pop("name", "") or word)
        with self.desk.runs.prepared() as run:
            settings = make_config(base, run.folder, name, token, word, quality, **given)
            if not save_photos(photos or [], run.folder / "photos"):
                raise ValueError("Drop some photos of one thing first: five to ten are best.")
            settings["output_dir"] = str(run.folder / name)
            (run.folder / "config.json").write_text(
                json.dumps({"training": settings, "trigger": f"{token} {word}"})
            )
        return run

    def begin(self, photos, what, token, quality, *advanced: Any) -> tuple[Any, ...]:
        """Start what the form says, and show it."""
        keys = ("name", "preset", "max_train_steps", "learning_rate", "seed", "resolution")
        given = dict(zip((*keys, "center_crop", "random_flip", "license"), advanced, strict=True))
        for key in ("max_train_steps", "learning_rate", "resolution"):
            given[key] = given[key] or None  # 0 leaves it to the quality
        for key in ("max_train_steps", "resolution", "seed"):
            given[key] = None if given[key] is None else int(given[key])
        with user_errors():
            self.start(photos, what, token, quality, **given)
        return self.show("")

    def stop(self) -> tuple[Any, ...]:
        """Ask the training under way to end."""
        if run := self.desk.runs.going():
            run.stop()
        return self.show("")

    def resume(self) -> tuple[Any, ...]:
        """Go on with the training that was stopped or failed."""
        with user_errors():
            self.desk.runs.resume()
        return self.show("")

    def show(self, seen: str) -> tuple[Any, ...]:
        """The latest training, if there is anything new: seen, view, three buttons, result."""
        run = self.desk.runs.latest()
        version = run.version() if run else "none"
        if version == seen:
            return (gr.skip(),) * 9
        status = run.status() if run else {}
        going, ended = status.get("state") in GOING, status.get("state") in ("done", "stopped")
        view = (
            snippets.training(status, run.previews())
            if run
            else snippets.empty(
                "Nothing was trained yet",
                "Drop five to ten photos of one thing, say what it is, and press Train.",
            )
        )
        entry = self._entry(status.get("concept")) if ended else None
        sheet = run.folder / "sheet.png" if ended else None
        drawn = sheet is not None and sheet.is_file()
        return (
            version,
            view,
            gr.update(interactive=not going),
            gr.update(visible=going, interactive=not (run and run.asked_to_stop())),
            gr.update(visible=bool(run and run.unfinished())),
            gr.update(visible=entry is not None),
            gr.update(value=served(sheet) if drawn else None, visible=drawn),
            gr.update(
                value=served(entry.path) if entry else None,
                label=f"Download ({size_text(entry.card.size)})" if entry else "",
            ),
            entry.name if entry else "",
        )

    def _entry(self, name: str | None) -> Any:
        try:
            return self.desk.library.get(name or "")
        except ValueError:  # deleted since
            return None


def build_train(trainer: Trainer, version: gr.Textbox) -> tuple[gr.Button, gr.State, list]:
    """Lay out the tab and connect it; returns "use it now", its concept, and what shows a run."""
    seen, learned = gr.State(""), gr.State("")
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            photos = gr.File(
                label=f"Photos of one thing: drop 5 to 10 (at most {MAX_PHOTOS})",
                file_count="multiple",
                file_types=[*SUFFIXES, CAPTION, ".jsonl", ".csv"],
                height=150,
                elem_id="photos",
            )
            said = gr.HTML()
            views = gr.HTML(elem_id="views")
            what = gr.Textbox(
                label="What is it?", placeholder="a dog", max_length=MAX_WORDS, elem_id="what"
            )
            hint = gr.HTML(elem_classes="hint")
            quality = gr.Radio(
                [(q.capitalize(), q) for q in QUALITIES],
                value=QUALITIES[0],
                label="How long",
                info=_times(trainer.desk),
            )
            go = gr.Button("Train", variant="primary", size="lg", elem_classes="go")
            token, advanced = _advanced(trainer)
        with gr.Column(scale=6, min_width=320, elem_classes="made"):
            view = gr.HTML(elem_id="run")
            stop = gr.Button("Stop and keep what was learned", visible=False, elem_id="stop")
            resume = gr.Button("Resume", visible=False, elem_id="resume")
            with gr.Row(visible=False) as result:
                use = gr.Button("Use it now", variant="primary", elem_id="use")
                download = gr.DownloadButton("Download", elem_id="download")
            sheet = gr.Image(
                show_label=False,
                type="filepath",
                format="png",
                interactive=False,
                visible=False,
                buttons=["download", "fullscreen"],
                elem_id="sheet",
            )
    outputs = [seen, view, go, stop, resume, result, sheet, download, learned]
    center = advanced[-3]
    for happens in (photos.change, center.change):
        happens(
            trainer.look,
            [photos, center],
            [views, said],
            api_visibility="private",
            show_progress_on=said,
            concurrency_limit=2,
        )
    for happens in (what.change, token.change):
        happens(_phrase, [what, token], hint, **QUICK)
    version.change(trainer.token, None, token, **QUICK)
    go.click(trainer.begin, [photos, what, token, quality, *advanced], outputs, **QUEUED)
    stop.click(trainer.stop, None, outputs, **QUICK)
    resume.click(trainer.resume, None, outputs, **QUEUED)
    gr.Timer(1).tick(trainer.show, seen, outputs, **QUICK)
    return use, learned, outputs


def _phrase(what: str, token: str) -> str:
    """How the concept will be called."""
    try:
        word = class_word(what or "")
    except ValueError:
        return ""
    return snippets.note(f"In prompts you will call it “{token} {word}”.")


def _times(desk: Workspace) -> str:
    default = TrainConfig.max_train_steps
    plans = {q: make_config(desk.studio.source, Path(), "x", "x", "x", q) for q in QUALITIES}
    counts = {q: given.get("max_train_steps", default) for q, given in plans.items()}
    counts.pop(AUTO)
    named = [f"{quality}: {count:,} steps" for quality, count in counts.items()]
    return " · ".join([*named, "auto: until a photo held out is learned no better"])


def _advanced(trainer: Trainer) -> tuple[gr.Textbox, list[Any]]:
    """The trigger word, and the settings that most people leave alone."""
    with gr.Accordion("Advanced", open=False):
        with gr.Row():
            token = gr.Textbox(
                trainer.token(), label="Trigger word", info="a rare word", max_length=MAX_WORDS
            )
            name = gr.Textbox("", label="Name in the library", placeholder="as what it is")
        with gr.Row():
            preset = gr.Dropdown(list(PRESETS), value="tiny", label="Preset")
            steps = gr.Number(
                0, label="Steps", info="0: by how long", precision=0, maximum=MAX_TRAIN_STEPS
            )
        with gr.Row():
            rate = gr.Number(
                0,
                label="Learning rate",
                info=f"0: the preset's ({TrainConfig.learning_rate} of tiny)",
                minimum=0,
                maximum=1,
            )
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
            size = gr.Number(0, label="Size, px", info="0: the base's", precision=0, maximum=1_024)
        with gr.Row():
            center = gr.Checkbox(False, label="Only the middle of long photos")
            flip = gr.Checkbox(False, label="Mirror half of the photos")
        licence = gr.Textbox("", label="Licence of the file", placeholder="CC-BY-4.0")
    return token, [name, preset, steps, rate, seed, size, center, flip, licence]
