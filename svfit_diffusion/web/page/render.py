"""Pieces of HTML for the page. Their templates escape every text; pictures are inlined."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from ...generation import size_text
from ..studio import SUCCESS_STATES, Card, Entry, Preparation, Progress
from .assets import render_template
from .loss_curve import loss_curve

MAX_PREVIEWS = 6  # of a training, side by side
STATE_TITLES = {
    "starting": "Starting",
    "preparing": "Looking at your photos",
    "training": "Learning",
    "finishing": "Generating the sheet",
    "done": "Learned",
    "stopped": "Stopped: what was learned so far is kept",
    "failed": "The training failed",
}

PREPARATION = (
    "The base is loaded, your photos are encoded, and the base is asked what is behind the subject "
    "on each of them, so that it learns the subject and not the background. Then the steps begin."
)


def inline_picture(image: Image.Image | Path, side: int = 256) -> Markup:
    """A picture of at most side x side pixels, as the data URL of a JPEG."""
    if isinstance(image, Path):
        with Image.open(image) as opened:
            image = opened.convert("RGB")
    image = image.convert("RGB")
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return Markup("data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode())


def base_in_use(sentence: str) -> str:
    """A sentence about the base in use."""
    return render_template("base_in_use.html", sentence=sentence)


def concept(entry: Entry, mismatch: str = "") -> str:
    """A concept of the library; greyed where it does not fit the base, for the reason given."""
    return render_template(
        "concept.html",
        preview=entry.preview and inline_picture(entry.preview, 192),
        trigger=entry.card.trigger,
        name=entry.name,
        size=size_text(entry.card.size),
        base=entry.card.base,
        mismatch=mismatch,
    )


def facts(card: Card, mismatch: str) -> str:
    """What a concept file contains, and whether it fits the base."""
    return render_template("facts.html", error="", mismatch=mismatch, facts=card.facts())


def file_error(error: object) -> str:
    """Why a file is not a usable concept file."""
    return render_template("facts.html", error=error, mismatch="", facts={})


def empty(title: str, hint: str) -> str:
    """An empty place that says what to do."""
    return render_template("empty.html", title=title, hint=hint)


def progress(now: Progress) -> str:
    """The live view of a generation job."""
    return render_template(
        "progress.html",
        message=now.message,
        percent=100 * now.done / now.total if now.total else None,
        preview=now.image and inline_picture(now.image, 384),
        remarks=now.remarks,
    )


def note(sentence: str) -> str:
    """One sentence in the place of a live view."""
    return progress(Progress(sentence))


def pictures(images: Sequence[tuple[Image.Image | Path, str]]) -> str:
    """Pictures side by side, with their captions."""
    return render_template("pictures.html", pictures=_inlined(images))


def run(
    status: Mapping[str, Any], previews: Sequence[Path], preparation: Preparation | None = None
) -> str:
    """The state of a training: time left, previews, loss curve.

    preparation: how far it is before its first step.
    """
    state, step, steps = status.get("state", ""), status.get("step", 0), status.get("steps", 0)
    ended = state in (*SUCCESS_STATES, "failed")
    percent = 100 * step / steps if steps and not ended else None
    notes = [PREPARATION] if preparation else [_backgrounds(status), _trigger(status)]
    return render_template(
        "run.html",
        state=state,
        title=STATE_TITLES.get(state, state),
        detail=_preparing(preparation) if preparation else _detail(status),
        percent=preparation.percent if preparation else percent,
        messages=list(filter(None, (status.get("message", ""), *status.get("remarks", ())))),
        pictures=_inlined(_selected(previews)),
        curve=loss_curve(status),
        notes=list(filter(None, notes)),
        summary=status.get("summary", {}) if not ended else {},
    )


def _preparing(now: Preparation) -> str:
    """Beside the title: how long it has prepared, and how long it may still take."""
    text = f"for {duration(now.seconds)}"
    if now.expected is None:
        return text
    left = now.expected - now.seconds
    return f"{text} · about {duration(left)} left, as the last time" if left > 0 else text


def _detail(status: Mapping[str, Any]) -> str:
    """Beside the title: the step and the time left, or what the training made."""
    state, step, steps = status.get("state", ""), status.get("step", 0), status.get("steps", 0)
    if state in SUCCESS_STATES:
        return f"{step} steps · {status.get('file', '')} · {size_text(status.get('bytes', 0))}"
    if state == "training" and not steps:
        return f"step {step} · ends by itself"
    text = f"step {step} of {steps}" if steps else ""
    if state == "training" and (left := status.get("left")) is not None:
        text += f" · {duration(left)} left"
    return text


def _backgrounds(status: Mapping[str, Any]) -> str:
    """What the base recognised behind the subject, if that was asked for."""
    named = ", ".join(dict.fromkeys(filter(None, status.get("backgrounds", []))))
    return f"Seen behind it: {named}." if named else ""


def _trigger(status: Mapping[str, Any]) -> str:
    """How prompts call the concept, once there is one."""
    trigger = status.get("trigger", "") if status.get("state") in SUCCESS_STATES else ""
    return f"In prompts it is called “{trigger}”." if trigger else ""


def duration(seconds: float) -> str:
    """A time in one rounded unit: 5 s, 12 min, 1.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def _inlined(images: Sequence[tuple[Image.Image | Path, str]]) -> list[tuple[Markup, str]]:
    return [(inline_picture(image, 192), caption) for image, caption in images]


def _selected(previews: Sequence[Path]) -> list[tuple[Path, str]]:
    """The first preview, the last, and some between, each with its step."""
    count = min(MAX_PREVIEWS, len(previews))
    chosen = [previews[round(i * (len(previews) - 1) / max(1, count - 1))] for i in range(count)]
    return [(path, f"step {int(path.stem)}") for path in chosen]
