"""What is read from strangers: the header of a safetensors file, JSON, and text to show.

Sizes are limited before anything is parsed, and types, shapes, offsets and numbers are checked one
by one. Nothing here knows what a concept is.
"""

from __future__ import annotations

import json
import math
import unicodedata

MAX_NUMBER = 1 << 40  # of a size or an offset
MAX_MARKS = 3  # combining marks shown on one letter


class Refused(Exception):
    """The reason why a file is refused, as the end of a sentence."""


def printable(text: str, length: int = 400) -> str:
    """Text from an untrusted file as one printable line of at most `length` characters.

    Control characters, escapes, line breaks, marks that change the direction of writing, and piles
    of combining marks are replaced. For HTML it must still be escaped.
    """
    text = text if len(text) <= length else f"{text[: length - 1]}…"
    marks, found = 0, []
    for c in text:
        marks = marks + 1 if unicodedata.combining(c) else 0
        shown = c.isprintable() and marks <= MAX_MARKS
        found.append(c if shown else "\N{REPLACEMENT CHARACTER}")
    return "".join(found)


def _unique(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Refused("its header names a key twice")
    return found


def read_json(text: str, what: str) -> dict:
    """An untrusted JSON object. Raises Refused for repeated keys, NaN, infinity and lone
    surrogates.
    """
    hooks = {"object_pairs_hook": _unique, "parse_constant": _constant, "parse_float": _float}
    try:
        value = json.loads(text, **hooks)
        json.dumps(value, ensure_ascii=False).encode()  # fails for a lone surrogate
    except (ValueError, RecursionError):
        raise Refused(f"its {what} is not valid JSON") from None
    if not isinstance(value, dict):
        raise Refused(f"its {what} is not a JSON object")
    return value


def _constant(text: str) -> float:
    raise Refused(f"its header holds {text}, which is not a finite number")


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise Refused("its header holds a number out of range")
    return value


def read_header(data: bytes, size: int, most: int) -> tuple[dict, int]:
    """The header of a safetensors file, and the offset of its tensors. Raises Refused.

    data: the beginning of the file, at least the header if that has at most `most` bytes. size: of
    the whole file, in bytes.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > size - 8:
        raise Refused("it is not a safetensors file, or it is cut off")
    if length > most:
        raise Refused(f"its header has {length:,} bytes, more than {most:,}")
    try:
        text = data[8 : 8 + length].decode()
    except UnicodeDecodeError:
        raise Refused("its header is not UTF-8") from None
    return read_json(text, "header"), 8 + length


def check_tensors(header: dict, size: int, dtypes: dict[str, int], dimensions: range) -> None:
    """Raise Refused for tensors that do not use each of the `size` bytes after the header once.

    dtypes: allowed type -> bytes of a number. dimensions: allowed numbers of dimensions.
    """
    spans = []
    for name, info in header.items():
        if not isinstance(info, dict) or set(info) != {"dtype", "shape", "data_offsets"}:
            raise Refused(f"its tensor {name[:60]!r} is described wrongly")
        dtype, shape, span = info["dtype"], info["shape"], info["data_offsets"]
        if not isinstance(dtype, str) or dtype not in dtypes:
            raise Refused(f"its tensor {name[:60]!r} is not of type {' or '.join(dtypes)}")
        if not (whole_numbers(shape, dimensions, 1) and whole_numbers(span, range(2, 3))):
            raise Refused(f"its tensor {name[:60]!r} has an impossible shape or offset")
        if span[1] - span[0] != math.prod(shape) * dtypes[dtype]:
            raise Refused(f"its tensor {name[:60]!r} does not have the bytes of its shape")
        spans.append(span)
    spans.sort()
    ends = [0, *(end for _, end in spans)]
    if [start for start, _ in spans] != ends[:-1] or ends[-1] != size:
        raise Refused("its tensors do not fill the file")


def whole_numbers(values: object, lengths: range, least: int = 0) -> bool:
    """Whether it is a list of integers >= `least`, of one of these lengths."""
    return (
        isinstance(values, list)
        and len(values) in lengths
        and all(type(v) is int and least <= v <= MAX_NUMBER for v in values)
    )
