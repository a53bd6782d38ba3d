"""Pieces of HTML. Every text that is not ours goes through `text()`; pictures are inlined."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...concept import printable
from ...generation import size_text
from ..studio import Card, Entry

WIDTH, HEIGHT = 480, 120  # of the curve, in its own units
MAX_TEXT = 5_000  # characters of one text
STRIP = 6  # previews shown beside one another
TITLES = {
    "starting": "Starting",
    "preparing": "Looking at your photos",
    "training": "Learning",
    "finishing": "Drawing a sheet",
    "done": "Learned",
    "stopped": "Stopped: what was learned so far is kept",
    "failed": "The training failed",
}


def text(value: object) -> str:
    """Any text as text in HTML, attributes included, and as one line that turns no other."""
    return html.escape(printable(str(value), MAX_TEXT), quote=True)


def picture(image: Image.Image | Path, side: int = 256) -> str:
    """A picture as the address of an inlined JPEG."""
    if isinstance(image, Path):
        with Image.open(image) as opened:
            image = opened.convert("RGB")
    image = image.convert("RGB")
    image.thumbnail((side, side))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def concept(entry: Entry, reason: str = "") -> str:
    """The card of a concept; greyed, with the reason, where it cannot be used."""
    letter = text(entry.card.trigger[:1].upper())
    face = (
        f'<img src="{picture(entry.preview, 192)}" alt="">'
        if entry.preview
        else f'<span class="face">{letter}</span>'
    )
    why = f'<p class="why">{text(reason)}</p>' if reason else ""
    return (
        f'<div class="concept{" off" if reason else ""}">{face}<div>'
        f"<b>{text(entry.card.trigger)}</b>"
        f"<span>{text(entry.name)} · {size_text(entry.card.size)}</span>"
        f"<span>on {text(entry.card.base)}</span>{why}</div></div>"
    )


def facts(card: Card, reason: str) -> str:
    """What a stranger's file is, after it was checked."""
    rows = "".join(
        f"<tr><th>{text(key)}</th><td>{text(value)}</td></tr>"
        for key, value in card.facts().items()
    )
    verdict = (
        f'<p class="verdict no">The file is in order. But {text(reason)}</p>'
        if reason
        else '<p class="verdict yes">The file is in order and fits the base in use.</p>'
    )
    return f'<div class="facts">{verdict}<table>{rows}</table></div>'


def empty(title: str, hint: str) -> str:
    """An empty place that says what to do."""
    return f'<div class="nothing"><b>{text(title)}</b><span>{text(hint)}</span></div>'


def drawing(done: int, total: int, note: str, image: str = "") -> str:
    """A picture on its way: how far, and how it looks."""
    share = 100 * done / total if total else 0
    face = f'<img src="{image}" alt="the picture so far">' if image else ""
    return (
        f'<div class="live">{face}<div class="bar"><i style="width:{share:.1f}%"></i></div>'
        f"<span>{text(note)}</span></div>"
    )


def note(sentence: str) -> str:
    """One sentence in the place of a live view."""
    return f'<div class="live"><span>{text(sentence)}</span></div>' if sentence else ""


def training(status: Mapping[str, Any], previews: Sequence[Path]) -> str:
    """A training as it stands: title, time left, curve, and the subject appearing."""
    state, step, steps = (
        status.get("state", ""),
        status.get("step", 0),
        status.get("steps", 0),
    )
    left = f"step {step} of {steps}" if steps else ""
    if state == "training" and not steps:
        left = f"step {step} · ends by itself"
    elif state == "training" and step > 1:
        left += f" · {duration(status.get('left', 0))} left"
    if state in ("done", "stopped"):
        size = size_text(status.get("bytes", 0))
        left = f"{step} steps · {status.get('file', '')} · {size}"
    share = 100 * step / steps if steps else 0
    bar = (
        ""
        if state in ("done", "stopped", "failed") or not steps
        else (f'<div class="bar"><i style="width:{share:.1f}%"></i></div>')
    )
    sentences = filter(None, (status.get("message", ""), *status.get("remarks", ())))
    said = "".join(f'<p class="message">{text(sentence)}</p>' for sentence in sentences)
    return (
        f'<div class="run {text(state)}"><header><b>{text(TITLES.get(state, state))}</b>'
        f"<span>{text(left)}</span></header>{bar}{said}{_strip(previews)}{_curve(status)}"
        f"{note(_seen(status))}{note(_called(status))}</div>"
    )


def _seen(status: Mapping[str, Any]) -> str:
    """What the base sees behind the subject of the photos, if it looked."""
    named = ", ".join(dict.fromkeys(filter(None, status.get("backgrounds", []))))
    return f"Seen behind it: {named}." if named else ""


def _called(status: Mapping[str, Any]) -> str:
    """How what was learned is called."""
    ended, trigger = status.get("state") in ("done", "stopped"), status.get("trigger", "")
    return f"In prompts it is called “{trigger}”." if ended and trigger else ""


def duration(seconds: float) -> str:
    """A time that is left, as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def views(images: Sequence[tuple[Image.Image | Path, str]]) -> str:
    """Pictures with their captions, side by side."""
    tiles = "".join(
        f'<figure><img src="{picture(image, 192)}" alt=""><figcaption>{text(caption)}'
        "</figcaption></figure>"
        for image, caption in images
    )
    return f'<div class="strip">{tiles}</div>' if tiles else ""


def _strip(previews: Sequence[Path]) -> str:
    """The first preview, the last, and some between, each with its step."""
    count = min(STRIP, len(previews))
    chosen = [previews[round(i * (len(previews) - 1) / max(1, count - 1))] for i in range(count)]
    return views([(path, f"step {int(path.stem)}") for path in chosen])


def _curve(status: Mapping[str, Any]) -> str:
    """The loss: of each step (smoothed), and on noise that no step sees."""
    lines = {"steps": status.get("losses", []), "held": status.get("held_out", [])}
    values = [loss for points in lines.values() for _, loss in points]
    if len(lines["steps"]) < 2:
        return ""
    low, high = min(values), max(values)
    last = max(2, *(step for points in lines.values() for step, _ in points))
    if status.get("state") == "training":
        last = max(last, status.get("steps") or 2)

    def place(point: Sequence[float]) -> tuple[float, float]:
        height = (point[1] - low) / ((high - low) or 1)
        return max(0, point[0] - 1) / (last - 1) * WIDTH, HEIGHT - 6 - height * (HEIGHT - 12)

    drawn = ""
    for name, points in lines.items():
        path = " ".join("{:.1f},{:.1f}".format(*place(point)) for point in points)
        drawn += f'<polyline class="{name}" points="{path}"/>'
    drawn += "".join(
        '<circle cx="{:.1f}" cy="{:.1f}" r="3"/>'.format(*place(p)) for p in lines["held"]
    )
    return (
        f'<figure class="curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
        f'role="img" aria-label="loss by step">{drawn}</svg><figcaption>loss: lower is closer to '
        f"your photos ({high:.3f} to {low:.3f}); dots: on noise that it does not train on"
        "</figcaption></figure>"
    )
