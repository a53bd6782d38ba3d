"""A card in the place of a picture that the base's safety checker flagged.

diffusers returns such a picture black, which looks like a fault of the concept.
"""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageDraw, ImageFont

_MARK = "svfit_withheld"
TEXT = "withheld by the base's safety checker"


def withheld_card(width: int, height: int) -> Image.Image:
    """A grey card of that many pixels that says so."""
    card = Image.new("RGB", (width, height), "#d0d4d9")
    draw, size = ImageDraw.Draw(card), max(8, min(width, height) // 14)
    words = TEXT.replace("by the", "by the\n").replace("safety", "\nsafety")
    draw.multiline_text((width / 2, height / 2), words, "#1f2328", ImageFont.load_default(size),
                        "mm", align="center")  # fmt: skip
    card.info[_MARK] = True
    return card


def is_withheld(image: Image.Image) -> bool:
    """Whether a picture of `generate` is such a card, which is no preview of anything."""
    return bool(image.info.get(_MARK))


def is_flagged(output: Any, index: int = 0) -> bool:
    """Whether a pipeline's output says that its picture was flagged."""
    flags = getattr(output, "nsfw_content_detected", None)
    return bool(flags and flags[index])
