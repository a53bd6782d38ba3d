"""A training as HTML: what is taught, how far it is, and what it achieved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ...generation import size_text
from ..studio import ENDED_STATES, SUCCESS_STATES, Preparation, in_words
from .assets import render_template
from .loss_curve import loss_curve
from .render import duration, inline_picture, inlined, plural

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
    "on those without a caption, so that it learns the subject and not the background. Then the "
    "steps begin."
)
STOPPING = "Stopping: what is under way is finished first, a step or a photo. You need not wait."
LIKENESS = (
    "Measured on the pictures below: 0 % is as like your photos as the base's own pictures of such "
    "a thing, 100 % as like them as they are to each other."
)


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
        pictures=inlined(_selected(taught.previews)),
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


def _selected(previews: Sequence[Path]) -> list[tuple[Path, str]]:
    """The first preview, the last, and some between, each with its step."""
    count = min(MAX_PREVIEWS, len(previews))
    chosen = [previews[round(i * (len(previews) - 1) / max(1, count - 1))] for i in range(count)]
    return [(path, f"step {int(path.stem)}") for path in chosen]
