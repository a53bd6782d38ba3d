"""The concept file: what was learned of a subject, in a few kilobytes, and nothing else.

One safetensors file with the tensor `deltas` [values] (the deltas of all projections, in the
order of their canonical names) and, where a trigger was trained, `trigger` [values] (the rows of
each text encoder's embedding, one after the other). float16, or float32 where asked. Everything
else is text in the header: which base, which projections, how it was made. Projections are not
named one by one; `layout` is a hash over (name, out, in, r) of all of them.

Reading trusts nothing: sizes are capped before parsing, and every field is checked before a
Concept exists. It needs neither torch nor the base.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load

VERSION = 1
MAX_FILE = 64_000_000  # bytes
MAX_HEADER = 200_000  # bytes
MAX_TEXT = 2_000  # characters of one metadata field
TENSORS = ("deltas", "trigger")
DTYPES = {"F16": np.float16, "F32": np.float32}
ATTENTION = ("both", "self", "cross")


@dataclass(frozen=True)
class Concept:
    """A subject as learned on one base.

    deltas: [sum of ranks]. ranks: one per projection, by canonical name. targets: component ->
    "both", "self" or "cross" attention. fingerprints: component -> hash (hex, 128 bits) of its
    projections' published weights. trigger_rows: [sum of tokens x width] or None. trigger_shape:
    text encoder -> (tokens, width). training: settings, for people to read.
    """

    deltas: np.ndarray
    ranks: tuple[int, ...]
    rank: str
    layout: str
    base: str
    family: str
    targets: Mapping[str, str]
    fingerprints: Mapping[str, str]
    token: str
    class_word: str
    trigger_rows: np.ndarray | None = None
    trigger_shape: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    training: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    license: str = ""
    created: str = ""

    @property
    def trigger(self) -> str:
        """The words that call the concept, such as "sks dog"."""
        return f"{self.token} {self.class_word}".strip()

    @property
    def values(self) -> int:
        """How many numbers were trained."""
        return self.deltas.size + (0 if self.trigger_rows is None else self.trigger_rows.size)

    def rows(self) -> dict[str, np.ndarray]:
        """Text encoder -> its rows of the trigger, [tokens, width]."""
        rows, start = {}, 0
        for name, (tokens, width) in sorted(self.trigger_shape.items()):
            part = self.trigger_rows[start : start + tokens * width]
            rows[name], start = part.reshape(tokens, width), start + tokens * width
        return rows


def layout_hash(entries: Iterable[tuple[str, int, int, int]]) -> str:
    """Hash (hex, 128 bits) over the sorted (canonical name, out, in, r) of all projections."""
    text = "\n".join(f"{name} {out} {in_} {r}" for name, out, in_, r in sorted(entries))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def to_bytes(concept: Concept) -> bytes:
    """The file's contents, the same bytes for the same concept (safetensors' own writer shuffles
    the metadata). Raises ValueError for a concept that could not be read again.
    """
    settings = {
        "targets": dict(concept.targets),
        "fingerprints": dict(concept.fingerprints),
        "trigger_shape": {k: list(v) for k, v in concept.trigger_shape.items()},
        "training": dict(concept.training),
    }
    text = {
        "format": "svfit",
        "version": str(VERSION),
        "ranks": _pack_ranks(concept.ranks),
        **{key: getattr(concept, key) for key in _TEXT_FIELDS},
        **{k: json.dumps(v, separators=(",", ":"), sort_keys=True) for k, v in settings.items()},
    }
    header: dict = {"__metadata__": {key: value for key, value in text.items() if value}}
    body = b""
    for name, tensor in (("deltas", concept.deltas), ("trigger", concept.trigger_rows)):
        if tensor is not None:
            kind = next((k for k, dtype in DTYPES.items() if dtype == tensor.dtype), "unknown")
            span = [len(body), len(body) + tensor.nbytes]
            header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": span}
            body += tensor.tobytes()
    packed = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    packed += b" " * (-len(packed) % 8)
    data = len(packed).to_bytes(8, "little") + packed + body
    from_bytes(data, "this concept")
    return data


def write_concept(concept: Concept, path: str | Path) -> Path:
    """Write the file all at once: it is whole or not there. Its mode follows the umask."""
    path, data = Path(path), to_bytes(concept)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(temporary, flags, 0o666), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_concept(path: str | Path) -> Concept:
    """Read and check a concept file. Raises ValueError that names the file and what is wrong."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{path} is not a file; name a concept's .safetensors file.")
            if status.st_size > MAX_FILE:
                raise ValueError(
                    f"{path} has {status.st_size:,} bytes, but a concept has at most "
                    f"{MAX_FILE:,}; it is some other file."
                )
            return from_bytes(file.read(MAX_FILE + 1), str(path))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None


def from_bytes(data: bytes, name: str) -> Concept:
    """A checked Concept from a file's contents; ValueError with `name` and the reason if not."""
    try:
        header = _header(data)
        text = header.pop("__metadata__", {})
        _check_tensors(header, len(data) - 8 - int.from_bytes(data[:8], "little"))
        fields = _check_text(text)
        tensors = load(data)
        return _assemble(fields, tensors)
    except _Refused as reason:
        raise ValueError(f"{name} is not a usable concept file: {reason}.") from None


class _Refused(Exception):
    """Why a file is refused, as the end of a sentence."""


_TEXT_FIELDS = (*("rank", "layout", "base", "family", "token", "class_word", "license", "created"),)
_JSON_FIELDS = ("targets", "fingerprints", "trigger_shape", "training")
_REQUIRED = ("rank", "layout", "base", "family", "ranks", "targets", "fingerprints")


def _unique(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused("its header names a key twice")
    return found


def _json(text: str | bytes, what: str) -> dict:
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_constant)
    except (ValueError, RecursionError):
        raise _Refused(f"its {what} is not valid JSON") from None
    if not isinstance(value, dict):
        raise _Refused(f"its {what} is not a JSON object")
    return value


def _constant(text: str) -> float:
    raise _Refused(f"its header holds {text}, which is no number")


def _header(data: bytes) -> dict:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise _Refused("it is no safetensors file, or is cut off")
    if size > MAX_HEADER:
        raise _Refused(f"its header has {size:,} bytes, more than {MAX_HEADER:,}")
    return _json(data[8 : 8 + size], "header")


def _check_tensors(header: dict, size: int) -> None:
    if unknown := sorted(set(header) - set(TENSORS)):
        raise _Refused(f"it holds a tensor {unknown[0][:60]!r} that this version does not know")
    if "deltas" not in header:
        raise _Refused("it has no tensor 'deltas'; a LoRA or another kind of file, perhaps")
    spans = []
    for name, info in header.items():
        if not isinstance(info, dict) or set(info) != {"dtype", "shape", "data_offsets"}:
            raise _Refused(f"its tensor {name!r} is described wrongly")
        dtype, shape, span = info["dtype"], info["shape"], info["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise _Refused(f"its tensor {name!r} is not of type F16 or F32")
        if not (_whole(shape, 1) and shape[0] > 0 and _whole(span, 2)):
            raise _Refused(f"its tensor {name!r} is not a list of numbers")
        if span[1] - span[0] != shape[0] * np.dtype(DTYPES[dtype]).itemsize:
            raise _Refused(f"its tensor {name!r} does not fill its bytes")
        spans.append(span)
    ends = [0, *(end for _, end in sorted(spans))]
    if [start for start, _ in sorted(spans)] != ends[:-1] or ends[-1] != size:
        raise _Refused("its tensors do not fill the file")


def _whole(values: object, length: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == length
        and all(type(v) is int and 0 <= v <= MAX_FILE for v in values)
    )


def _check_text(text: object) -> dict:
    if not isinstance(text, dict) or not all(isinstance(v, str) for v in text.values()):
        raise _Refused("its metadata is not text")
    if text.get("format") != "svfit":
        raise _Refused("it is not marked as a concept of SVFit")
    if text.get("version") != str(VERSION):
        raise _Refused(
            f"it is of version {text.get('version', 'none')[:20]!r}, and this program reads "
            f"version {VERSION}; update svfit-diffusion"
        )
    known = {*_TEXT_FIELDS, *_JSON_FIELDS, "ranks", "format", "version"}
    if unknown := sorted(set(text) - known):
        raise _Refused(f"its metadata has a field {unknown[0][:60]!r} that is not known")
    if missing := [key for key in _REQUIRED if not text.get(key)]:
        raise _Refused(f"its metadata lacks {missing[0]!r}")
    for key in (*_TEXT_FIELDS, *_JSON_FIELDS):
        if len(text.get(key, "")) > MAX_TEXT:
            raise _Refused(f"its metadata {key!r} is longer than {MAX_TEXT:,} characters")
    fields = {key: text.get(key, "") for key in _TEXT_FIELDS}
    fields.update({key: _json(text.get(key, "{}"), key) for key in _JSON_FIELDS})
    fields["ranks"] = _unpack_ranks(text["ranks"])
    _check_objects(fields)
    return fields


def _check_objects(fields: dict) -> None:
    targets, prints = fields["targets"], fields["fingerprints"]
    if not targets or any(not isinstance(v, str) or v not in ATTENTION for v in targets.values()):
        raise _Refused("its targets are none of both, self and cross")
    if set(targets) != set(prints) or not all(
        isinstance(v, str) and len(v) == 32 and set(v) <= set("0123456789abcdef")
        for v in prints.values()
    ):
        raise _Refused("its fingerprints are not a hash for each target")
    if not all(_whole(v, 2) and min(v) >= 1 for v in fields["trigger_shape"].values()):
        raise _Refused("its trigger's shape is not rows and width for each text encoder")
    if not all(isinstance(v, str | int | float | None) for v in fields["training"].values()):
        raise _Refused("its training settings are not plain values")


def _assemble(fields: dict, tensors: dict[str, np.ndarray]) -> Concept:
    shapes = {name: tuple(shape) for name, shape in fields.pop("trigger_shape").items()}
    deltas, rows = tensors["deltas"], tensors.get("trigger")
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise _Refused(f"its tensor {name!r} holds NaN or infinity; the training failed")
    if deltas.size != sum(fields["ranks"]):
        raise _Refused(f"it holds {deltas.size} deltas where its ranks want {sum(fields['ranks'])}")
    wanted = sum(tokens * width for tokens, width in shapes.values())
    if (0 if rows is None else rows.size) != wanted:
        raise _Refused("its trigger tensor is not of the shape that its metadata states")
    if rows is not None and not fields["token"]:
        raise _Refused("it holds a trigger without the token that it stands for")
    return Concept(deltas=deltas, trigger_rows=rows, trigger_shape=shapes, **fields)


def _pack_ranks(ranks: tuple[int, ...]) -> str:
    """Runs of equal ranks, such as "16x128 4 8x3"."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][0] == rank:
            runs[-1][1] += 1
        else:
            runs.append([rank, 1])
    return " ".join(f"{rank}x{count}" if count > 1 else str(rank) for rank, count in runs)


def _unpack_ranks(text: str) -> tuple[int, ...]:
    ranks: list[int] = []
    for run in text.split(" "):
        rank, _, count = run.partition("x")
        if not all(part.isascii() and part.isdecimal() for part in (rank, count or "1")):
            raise _Refused("its ranks are not whole numbers")
        if len(run) > 16 or not 1 <= int(rank) <= 1 << 20 or not 1 <= int(count or 1) <= 1 << 14:
            raise _Refused("its ranks are out of range")
        ranks += [int(rank)] * int(count or 1)
        if len(ranks) > 1 << 14:
            raise _Refused("it names more projections than any base has")
    return tuple(ranks)
