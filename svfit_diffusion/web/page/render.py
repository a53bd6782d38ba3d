"""Pieces of HTML for the page. Their templates escape every text; pictures are inlined."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from ...generation import size_text
from ...pipeline import PromptLength
from ..studio import Card, Entry, Progress
from .assets import render_template


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


def suggestion(name: str, text: str) -> str:
    """A base that may be used instead, and what it needs."""
    return render_template("base_card.html", title=name, text=text, picture=None)


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


def progress(now: Progress, tiles: Sequence[Path | None] = (), shape: str = "1 / 1") -> str:
    """The live view of a generation job.

    tiles: a picture for each that is finished, None for others, the first of which has the preview.
    shape: of each, "width / height".
    """
    return render_template(
        "progress.html",
        message=now.message,
        percent=100 * now.done / now.total if now.total else None,
        preview=now.image and inline_picture(now.image, 384),
        remarks=now.remarks,
        tiles=[_finished(path) if path else "" for path in tiles],
        shape=shape,
    )


@functools.lru_cache(maxsize=64)
def _finished(path: Path) -> Markup:
    """A finished picture, which the live view shows at each step of the others."""
    return inline_picture(path, 384)


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
    return render_template("pictures.html", pictures=inlined(images))


def plural(count: int, noun: str) -> str:
    """A number with its noun: 1 step, 2 steps."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time in one rounded unit: 5 s, 12 min, 1.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def inlined(images: Sequence[tuple[Image.Image | Path, str]]) -> list[tuple[Markup, str]]:
    """Pictures as data URLs, with their captions."""
    return [(inline_picture(image, 192), caption) for image, caption in images]
