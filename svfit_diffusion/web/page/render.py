"""Pieces of HTML for the page. Their templates escape every text; pictures are inlined."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from ...generation import size_text
from ...pipeline import PromptLength
from ..studio import ENDED_STATES, SUCCESS_STATES, Card, Entry, Preparation, Progress, in_words
from .assets import render_template
from .loss_curve import loss_curve

MAX_PREVIEWS = 6  # of a training, side by side
MAX_THUMBNAILS = 8  # of its photos
STATE_TITLES = {
    "starting": "Starting",
    "preparing": "Looking at your photos",
    "training": "Learning",
    "finishing": "Generating pictures of it",
    "done": "The training has ended",
    "stopped": "Stopped: what was learned so far is kept",
    "cancelled": "Stopped before the first step",
    "failed": "The training failed",
}
STAGES = {"preparing": "Prepare", "training": "Learn", "finishing": "Show"}
VERDICTS = {
    "clearly": "Learned: clearly like your photos",
    "somewhat": "Partly learned: somewhat like your photos",
    "hardly": "Not learned: hardly like your photos",
}
PREPARATION = (
    "The base is loaded, your photos are encoded, and the base is asked what is behind the subject "
    "on each of them, so that it learns the subject and not the background. Then the steps begin."
)
STOPPING = "Stopping: what is under way is finished first, a step or a photo. You need not wait."
LIKENESS = (
    "Measured on the pictures below: 0 % is as like your photos as the base's own pictures of such "
    "a thing, 100 % as like them as they are to each other."
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


def base_card(title: str, text: str, picture: Path | None) -> str:
    """The base in use, what to know of it, and a picture of it, if there is one."""
    return render_template(
        "base_card.html", title=title, text=text, picture=picture and inline_picture(picture, 144)
    )


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


def facts(card: Card, mismatch: str, remark: str = "") -> str:
    """What a concept file contains, and whether it fits the base. remark: another sentence."""
    found = card.facts()
    return render_template("facts.html", error="", mismatch=mismatch, remark=remark, facts=found)


def file_error(error: object) -> str:
    """Why a file is not a usable concept file."""
    return render_template("facts.html", error=error, mismatch="", remark="", facts={})


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


def verdict(kind: str, text: str) -> str:
    """A sentence that matters. kind: yes, somewhat or no."""
    return render_template("verdict.html", kind=kind, text=text)


def note(sentence: str) -> str:
    """One sentence in the place of a live view."""
    return progress(Progress(sentence))


def prompt_hints(hints: Sequence[str], length: PromptLength | None) -> str:
    """What to know of a prompt before it is used. length: None where it is not known now."""
    return render_template(
        "prompt_hints.html",
        hints=hints,
        unread=length.unread if length else "",
        tokens=length.tokens if length else 0,
        room=length.room if length else 0,
    )


def pictures(images: Sequence[tuple[Image.Image | Path, str]]) -> str:
    """Pictures side by side, with their captions."""
    return render_template("pictures.html", pictures=_inlined(images))


@dataclass(frozen=True)
class Taught:
    """What a training teaches, for its panel. trigger: how prompts call it. base: its name.

    photos: trained on. previews: generated on the way. scenes: each before and after.
    """

    trigger: str = ""
    base: str = ""
    photos: Sequence[Path] = ()
    previews: Sequence[Path] = ()
    scenes: Sequence[tuple[Path, Path]] = ()


def run(
    status: Mapping[str, Any],
    taught: Taught = Taught(),  # noqa: B008, it is frozen
    preparation: Preparation | None = None,
    stopping: bool = False,
) -> str:
    """The state of a training: what is taught, stages, time left, verdict, previews, loss curve.

    preparation: how far it is before its first step. stopping: whether it was asked to stop.
    """
    state, ended = status.get("state", ""), status.get("state") in ENDED_STATES
    notes = [PREPARATION] if preparation else [_backgrounds(status), _trigger(status)]
    messages = [STOPPING if stopping and not ended else "", status.get("message", "")]
    return render_template(
        "run.html",
        state=state,
        title=run_title(status),
        detail=_preparing(preparation) if preparation else _detail(status),
        taught=_taught(taught),
        photos=[inline_picture(path, 96) for path in taught.photos[:MAX_THUMBNAILS]],
        stages=_stages(state) if not ended else [],
        percent=percent(status, preparation),
        messages=list(filter(None, (*messages, *status.get("remarks", ())))),
        verdict=_verdict(status) if state in SUCCESS_STATES else {},
        scenes=_scenes(status, taught) if ended else [],
        pictures=_inlined(_selected(taught.previews)),
        curve=loss_curve(status),
        notes=list(filter(None, notes)),
        summary=status.get("summary", {}) if not ended else {},
    )


def run_title(status: Mapping[str, Any]) -> str:
    """The state in words; of a training that ended, whether its subject was learned."""
    state = status.get("state", "")
    if state == "done" and (value := status.get("likeness")) is not None:
        return VERDICTS[in_words(value, status.get("unknown", False))]
    return STATE_TITLES.get(state, state)


def percent(status: Mapping[str, Any], preparation: Preparation | None = None) -> float | None:
    """How much of the present stage is done; None where that is not known."""
    step, steps = status.get("step", 0), status.get("steps", 0)
    if preparation:
        return preparation.percent
    return 100 * step / steps if steps and status.get("state") == "training" else None


def strip(text: str, done: float | None) -> str:
    """The line on a running training in every tab; "" where none runs."""
    return render_template("strip.html", text=text, percent=done)


def _taught(taught: Taught) -> str:
    """Who is taught what, in a sentence."""
    if not taught.trigger:
        return ""
    photos = plural(len(taught.photos), "photo")
    return f"{taught.base} learns “{taught.trigger}” from {photos}."


def _stages(state: str) -> list[tuple[str, str]]:
    """The stages, each with "done", "now" or "later"."""
    order = list(STAGES)
    now = order.index(state) if state in order else -1
    when = ["done" if i < now else "now" if i == now else "later" for i in range(len(order))]
    return list(zip(STAGES.values(), when, strict=True))


def _verdict(status: Mapping[str, Any]) -> dict[str, Any]:
    """How like the photos it is, and what to try; {} where there is nothing to say."""
    if unmeasured := status.get("unmeasured"):
        return {"word": "", "text": f"How like your photos it is was not measured. {unmeasured}"}
    if (value := status.get("likeness")) is None:
        return {}
    word = in_words(value, status.get("unknown", False))
    share = round(100 * max(0, min(value, 1)))
    text = f"{share} % like your photos. {LIKENESS}"
    return {"word": word, "text": " ".join(filter(None, (text, *status.get("advice", ()))))}


def _scenes(status: Mapping[str, Any], taught: Taught) -> list[tuple[Markup, Markup, str]]:
    """Each scene before and after, with its prompt."""
    return [
        (inline_picture(before), inline_picture(after), prompt)
        for (before, after), prompt in zip(taught.scenes, status.get("scenes", ()), strict=False)
    ]


def plural(count: int, noun: str) -> str:
    """A number with its noun: 1 step, 2 steps."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _preparing(now: Preparation) -> str:
    """Beside the title: which photo it looks at, for how long it prepares, and how long yet."""
    text = f"photo {now.photo} of {now.photos} · " if now.photos else ""
    text += f"for {duration(now.seconds)}"
    if now.expected is None:
        return text
    left = now.expected - now.seconds
    return f"{text} · about {duration(left)} left, as the last time" if left > 0 else text


def _detail(status: Mapping[str, Any]) -> str:
    """Beside the title: the step and the time left, or what the training made."""
    state, step, steps = status.get("state", ""), status.get("step", 0), status.get("steps", 0)
    if state in SUCCESS_STATES:
        size = size_text(status.get("bytes", 0))
        return f"{plural(step, 'step')} · {status.get('file', '')} · {size}"
    if state == "training" and not steps:
        return f"step {step} · ends by itself"
    text = f"step {step} of {steps}" if steps and state in ("training", "failed") else ""
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
