"""The process of one training: `python -m svfit_diffusion.web.studio.worker <run's folder>`.

It reports into the run's folder and adds the trained concept to the library, whether or not a page
is open.
"""

from __future__ import annotations

import functools
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from .reporter import Reporter
from .runs import Run

if TYPE_CHECKING:
    from .library import Library

SHEET_PHOTOS = 9
MAX_REASON = 300  # characters


class Cancelled(Exception):
    """The user stopped the training before its first step, so there is no concept."""


def main(folder: str) -> int:
    """Train as the run's config.json says; returns the exit status."""
    run = Run(Path(folder))
    try:
        with FileLock(run.folder / "alive.lock").acquire(timeout=5):
            return _work(run)
    except Timeout:
        return 2  # another process runs this training


def _work(run: Run) -> int:
    try:
        run.write(state="preparing", preparing_since=time.time(), looking_at=(0, 0))
        from ...settings import AUTO, TrainConfig
        from ...training import train

        resumed = {"resume_from_checkpoint": "latest"} if run.status().get("step") else {}
        config = TrainConfig(**run.config["training"], **resumed)
        steps = None if config.max_train_steps == AUTO else config.max_train_steps
        reporter = Reporter(run, steps, config.seed)
        trained = train(
            config,
            progress=False,
            report=reporter,
            on_summary=lambda summary: run.write(summary=summary),
            on_photo=functools.partial(_look_at, run),
        )
        remarks = " ".join(filter(None, (*trained.advice, trained.length)))
        if message := trained.stopped if trained.exit_status else remarks:
            run.write(message=f"{message[:1].upper()}{message[1:]}")
        losses = {"loss_before": trained.loss_before, "loss_after": trained.loss_after}
        run.write(state="finishing", diverged=trained.exit_status == 1, **losses)
        _add_to_library(run, config, trained)
        run.write(state="stopped" if trained.stopped else "done", step=trained.steps)
        return 0
    except Cancelled:
        run.write(state="cancelled", message="It was stopped before its first step.")
        return 0
    except BaseException as error:
        traceback.print_exc()  # before the page refers anyone to the log
        run.write(state="failed", message=_sentence(error))
        return 1


def _look_at(run: Run, photo: int, photos: int) -> None:
    """Report which photo the base looks at; Cancelled where the user does not wait for it."""
    if run.stop_requested():
        raise Cancelled
    run.write(looking_at=(photo, photos))


def _sentence(error: BaseException) -> str:
    """The error as a sentence for the page; the log has the traceback."""
    if isinstance(error, ValueError | OSError):
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        return f"{reason[:1].upper()}{reason[1:MAX_REASON]}"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "There was not enough memory for this training; choose a smaller base or size."
    return f"The training failed ({type(error).__name__}); its folder has a log."


def _add_to_library(run: Run, config: Any, trained: Any) -> None:
    """Add the concept to the library, with pictures of it by a freshly loaded base.

    A concept that this run added before, when it was stopped, moves to the bin.
    """
    from .cards import read_card
    from .library import Library

    library, earlier = Library(run.folder.parents[1]), run.status().get("concept", "")
    digest = library.get(earlier).card.digest if earlier in library.names() else None
    if digest not in (None, read_card(trained.path).digest):
        library.delete(earlier)
    name = library.add(trained.path, earlier or run.config["name"])
    entry = library.get(name)
    run.write(concept=name, trigger=entry.card.trigger, file=entry.path.name, bytes=entry.card.size)
    try:
        _show(run, config, trained, library)
    except (ValueError, RuntimeError) as error:  # the concept is complete without it
        run.write(message=f"Its pictures could not be generated. {_sentence(error)}")


def _show(run: Run, config: Any, trained: Any, library: Library) -> None:
    """Scenes before and after, the verdict on them, and a sheet of all of it."""
    from ...data import read_folder
    from ...families import TOYBOX, load_base
    from ...generation import pick_device, save_png, sheet
    from ...training import DTYPES
    from . import verdict
    from .familiarity import familiarity

    base, name = config.pretrained_model_name_or_path, run.status()["concept"]
    pipe = load_base(base, DTYPES[config.mixed_precision or "no"])
    pipe.to(pick_device()).set_progress_bar_config(disable=True)
    photos = [photo.image for photo in read_folder(config.instance_data_dir)[0]]
    unknown = base == TOYBOX and not familiarity(pipe, photos).known
    words = trained.concept.class_word, trained.concept.trigger
    scenes = verdict.before_and_after(pipe, trained.path, words, config.seed)
    verdict.save_scenes(scenes, run.folder / "scenes")
    run.write(scenes=[scene.prompt for scene in scenes])
    best = 0
    try:
        value, best = verdict.measure(scenes, photos)
        hints = verdict.advice(value, len(photos), trained.steps, unknown)
        run.write(likeness=value, unknown=unknown, advice=hints)
    except ValueError as error:
        run.write(unmeasured=_sentence(error))
    before = scenes[0].before, scenes[0].prompt
    after = [(scene.after, scene.prompt) for scene in scenes]
    size, shown = trained.path.stat().st_size, photos[:SHEET_PHOTOS]
    save_png(sheet(shown, f"{name}.safetensors", size, before, after), run.folder / "sheet.png")
    library.set_preview(name, scenes[best].after)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
