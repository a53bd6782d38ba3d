"""The process of one training: `python -m svfit_diffusion.web.studio.worker <run's folder>`.

It reports into the run's folder and adds the trained concept to the library, whether or not a page
is open.
"""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from .reporter import Reporter
from .runs import Run

if TYPE_CHECKING:
    from PIL import Image

SCENES = ("a photo of {} on the beach", "a photo of {} in the snow", "a photo of {} at night")
SHEET_PHOTOS = 9
MAX_REASON = 300  # characters


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
        run.write(state="preparing", preparing_since=time.time())
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
        )
        remarks = " ".join(filter(None, (*trained.advice, trained.length)))
        if message := trained.stopped if trained.exit_status else remarks:
            run.write(message=f"{message[:1].upper()}{message[1:]}")
        losses = {"loss_before": trained.loss_before, "loss_after": trained.loss_after}
        run.write(state="finishing", diverged=trained.exit_status == 1, **losses)
        _add_to_library(run, config, trained)
        run.write(state="stopped" if trained.stopped else "done", step=trained.steps)
        return 0
    except BaseException as error:
        traceback.print_exc()  # before the page refers anyone to the log
        run.write(state="failed", message=_sentence(error))
        return 1


def _sentence(error: BaseException) -> str:
    """The error as a sentence for the page; the log has the traceback."""
    if isinstance(error, ValueError | OSError):
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        return f"{reason[:1].upper()}{reason[1:MAX_REASON]}"
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "There was not enough memory for this training; choose a smaller base or size."
    return f"The training failed ({type(error).__name__}); its folder has a log."


def _add_to_library(run: Run, config: Any, trained: Any) -> None:
    """Add the concept to the library, with a sheet of pictures by a freshly loaded base.

    A concept that this run added before, when it was stopped, moves to the bin.
    """
    from ...generation import save_png
    from .cards import read_card
    from .library import Library

    library, earlier = Library(run.folder.parents[1]), run.status().get("concept", "")
    digest = library.get(earlier).card.digest if earlier in library.names() else None
    if digest not in (None, read_card(trained.path).digest):
        library.delete(earlier)
    name = library.add(trained.path, earlier)
    size = trained.path.stat().st_size
    run.write(concept=name, trigger=trained.concept.trigger, file=trained.path.name, bytes=size)
    try:
        picture, first = _sheet(config, trained)
    except (ValueError, RuntimeError) as error:  # the concept is complete without it
        run.write(message=f"The sheet could not be generated. {_sentence(error)}")
        return
    save_png(picture, run.folder / "sheet.png")
    library.set_preview(name, first)


def _sheet(config: Any, trained: Any) -> tuple[Image.Image, Image.Image]:
    """Photos, the base alone and the concept in three scenes; and the first scene by itself."""
    from ...data import read_folder
    from ...families import load_base
    from ...generation import generate, pick_device, sheet
    from ...pipeline import load_concept
    from ...training import DTYPES

    pipe = load_base(config.pretrained_model_name_or_path, DTYPES[config.mixed_precision or "no"])
    pipe.to(pick_device()).set_progress_bar_config(disable=True)
    prompts = [scene.format(trained.concept.trigger) for scene in SCENES]
    before, _ = next(generate(pipe, prompts[0], seed=config.seed))
    load_concept(pipe, trained.path)
    after = [(next(generate(pipe, p, seed=config.seed))[0], p) for p in prompts]
    photos = [photo.image for photo in read_folder(config.instance_data_dir)[0]][:SHEET_PHOTOS]
    size = trained.path.stat().st_size
    return sheet(photos, trained.path.name, size, (before, prompts[0]), after), after[0][0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
