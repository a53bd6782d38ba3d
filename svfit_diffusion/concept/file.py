"""The concept file: what was learned of a subject, in a few kilobytes.

One safetensors file with the tensor `deltas` [values] (the deltas of all projections, in the
order of their canonical names; float16, float32, or four bits each with `scales`, packing.py),
`common` [d] (common.py; `common_scales` in four bits), if it has one, and, if a trigger was
trained, `trigger` [values] (the rows of each text encoder's embedding, one after the other), or
`vectors` and `vector_scales` in four bits. Everything else is text in the header:
which base, which projections, how it was made. Projections are not listed; `layout` is a hash over
(name, out, in, r) of all of them. docs/concept-format.md describes the format in full.

Reading checks everything (header.py) and needs neither torch nor the base.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from .atomic import replace_file
from .header import LATEST, MAX_FILE_BYTES, OUTPUTS, PACKED, TEXT_FIELDS, Refused, parse
from .packing import blocks, pack

KINDS = {"f": "F", "u": "U"}  # numpy's kinds of numbers -> safetensors'
MAX_MARKS = 3  # combining marks shown on one letter


@dataclass(frozen=True)
class Trigger:
    """A word that calls a subject, with its learned rows: text encoder -> [tokens, width], or {}.

    strength: of the rows when the concept is at strength 1; other than 1 in combined concepts only.
    """

    word: str
    class_word: str
    rows: Mapping[str, np.ndarray]
    strength: float = 1.0

    def __str__(self) -> str:
        return f"{self.word} {self.class_word}".strip()


@dataclass(frozen=True)
class Concept:
    """A subject as learned on one base.

    deltas: [sum of ranks]. packed: they are written in four bits, which represent them exactly, as
    are vectors in outputs; packed_words: the rows of embeddings too.
    ranks: one per projection, ordered by canonical name. targets: component -> "both", "self" or
    "cross" attention. fingerprints: component -> hash (hex, 128 bits) of its projections' published
    weights. trigger_rows: [sum of tokens x width] or None. trigger_shape: text encoder ->
    (tokens, width). training: settings, for people to read. check: the self-check (self_check.py),
    () in files of version 1. triggers: of a combined concept, word -> (class word, tokens,
    strength), with the rows of each encoder in the order of the words; token is the first word.
    outputs: text encoder -> the layers whose hidden states its rows are added to (none: the last),
    for those that are not trained through; the rows of others are embeddings. common: [d], the
    vector that the projections of the denoiser have in common, packed as deltas are.
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
    check: tuple[float, ...] = ()
    triggers: Mapping[str, tuple[str, int, float]] = field(default_factory=dict)
    packed: bool = False
    packed_words: bool = False
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    common: np.ndarray | None = None

    @property
    def denoiser(self) -> str | None:
        """The component that its common vector is of: the one that is no text encoder."""
        return next((part for part in self.targets if not part.startswith("text_encoder")), None)

    @property
    def common_size(self) -> int:
        """The size of its common vector, 0 where it has none."""
        return 0 if self.common is None else len(self.common)

    @property
    def edit_values(self) -> np.ndarray:
        """All that its edit is linear in: deltas and common vector, [n], float64."""
        parts = [self.deltas] if self.common is None else [self.deltas, self.common]
        return np.concatenate(parts).astype(np.float64)

    @property
    def trigger(self) -> str:
        """The words that call the concept, such as "sks dog"; of a combined concept, all words."""
        return ", ".join(str(call) for call in self.all_triggers())

    @property
    def learned(self) -> bool:
        """Whether an embedding was learned for the trigger."""
        return self.trigger_rows is not None

    def all_triggers(self) -> tuple[Trigger, ...]:
        """The triggers, each with its learned rows."""
        single = {self.token: (self.class_word, None, 1.0)}
        found, start, rows = [], 0, self.rows()
        for word, (noun, tokens, strength) in sorted((self.triggers or single).items()):
            stop = None if tokens is None else start + tokens
            held = {encoder: part[start:stop] for encoder, part in rows.items()}
            found.append(Trigger(word, noun, held if tokens != 0 else {}, strength))
            start = stop
        return tuple(found)

    @property
    def values(self) -> int:
        """The number of trained values."""
        rows = 0 if self.trigger_rows is None else self.trigger_rows.size
        return self.deltas.size + self.common_size + rows

    def without_outputs(self, parts: Iterable[str] | None = None) -> Concept:
        """The concept as programs take it that cannot add anything to a text encoder's output.

        parts: the text encoders that are meant; None: all.
        """
        left = {*(self.outputs if parts is None else parts)}
        kept = {part: rows for part, rows in self.rows().items() if part not in left}
        return replace(
            self,
            outputs={part: layers for part, layers in self.outputs.items() if part not in left},
            trigger_shape={part: rows.shape for part, rows in kept.items()},
            trigger_rows=np.concatenate([r.ravel() for r in kept.values()]) if kept else None,
        )

    @property
    def output_words(self) -> str:
        """A sentence on what `without_outputs` lacks, "" if nothing."""
        if not self.outputs:
            return ""
        words = ", ".join(call.word for call in self.all_triggers() if call.rows)
        parts = " and ".join(sorted(self.outputs))
        return printable(
            f"the learned word {words} is, in part or as a whole, added to the output of the "
            f"{parts}, which this form cannot hold: there it is read as it is typed, and the "
            "subject will be less alike than with the concept file."
        )

    def rows(self) -> dict[str, np.ndarray]:
        """Text encoder -> learned rows [tokens, width]."""
        rows, start = {}, 0
        for name, (tokens, width) in sorted(self.trigger_shape.items()):
            part = self.trigger_rows[start : start + tokens * width]
            rows[name], start = part.reshape(tokens, width), start + tokens * width
        return rows


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


def layout_hash(entries: Iterable[tuple[str, int, int, int]]) -> str:
    """Hash (hex, 128 bits) over the sorted (canonical name, out, in, r) of all projections."""
    text = "\n".join(f"{name} {out} {in_} {r}" for name, out, in_, r in sorted(entries))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def to_bytes(concept: Concept) -> bytes:
    """The file's contents. The same concept gives the same bytes, unlike with safetensors' own
    writer, which shuffles the metadata. Raises ValueError for a concept that could not be read.
    """
    settings = {
        "targets": dict(concept.targets),
        "fingerprints": dict(concept.fingerprints),
        "trigger_shape": {k: list(v) for k, v in concept.trigger_shape.items()},
        "triggers": {k: list(v) for k, v in concept.triggers.items()},
        "outputs": {k: list(v) for k, v in concept.outputs.items()},
        "training": dict(concept.training),
    }
    text = {
        "format": "svfit",
        "version": _version(concept),
        "ranks": pack_ranks(concept.ranks),
        "check": base64.b64encode(np.array(concept.check, "<f4").tobytes()).decode(),
        **{key: getattr(concept, key) for key in TEXT_FIELDS},
        **{
            k: json.dumps(v, separators=(",", ":"), sort_keys=True)
            for k, v in settings.items()
            if v
        },
    }
    header: dict = {"__metadata__": {key: value for key, value in text.items() if value}}
    body, rows = b"", concept.trigger_rows
    tensors = {"deltas": concept.deltas, "common": concept.common, "trigger": rows}
    if concept.packed:
        levels, scales = pack(concept.deltas, concept.ranks)
        more: dict[str, np.ndarray] = {}
        if packed := _in_four_bits(concept):
            rows, more = _packed_vectors(concept, packed)
        if concept.common is not None:
            numbers, tops = pack(concept.common, blocks(1, concept.common_size))
            more |= {"common_scales": tops, "common": numbers}
        tensors = {"scales": scales, "trigger": rows, **more, "deltas": levels}
    for name, tensor in tensors.items():
        if tensor is not None:
            kind = KINDS.get(tensor.dtype.kind, tensor.dtype.kind) + str(8 * tensor.itemsize)
            span = [len(body), len(body) + tensor.nbytes]
            header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": span}
            body += tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()
    packed = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    packed += b" " * (-len(packed) % 8)
    data = len(packed).to_bytes(8, "little") + packed + body
    from_bytes(data, "this concept")
    return data


def _in_four_bits(concept: Concept) -> list[str]:
    """The text encoders whose rows or vectors are written so, in their order."""
    return sorted(concept.rows() if concept.packed_words else concept.outputs)


def _packed_vectors(
    concept: Concept, packed: list[str]
) -> tuple[np.ndarray | None, dict[str, np.ndarray]]:
    """The rows of the other text encoders, in half precision, and the tensors in four bits."""
    rows = concept.rows()
    held = [row.ravel() for part, row in rows.items() if part not in packed]
    sizes = [n for part in packed for n in blocks(*rows[part].shape)]
    numbers = np.concatenate([rows[part].ravel() for part in packed])
    levels, scales = pack(numbers, tuple(sizes))
    found = {"vector_scales": scales, "vectors": levels}
    return np.concatenate(held).astype(np.float16) if held else None, found


def _version(concept: Concept) -> str:
    """The version that a concept is written in: the oldest that has all of it."""
    words = concept.packed_words and set(concept.rows()) - set(concept.outputs)
    if words or concept.common is not None:
        return LATEST
    if concept.outputs:
        return OUTPUTS
    return PACKED if concept.packed else "2" if concept.check else "1"


def write_concept(concept: Concept, path: str | Path) -> Path:
    """Write the file atomically; its mode follows the umask."""
    return replace_file(Path(path), to_bytes(concept))


def read_concept(path: str | Path) -> Concept:
    """Read and check a concept file. Raises ValueError that names the file and what is wrong."""
    path = Path(path)
    shown = printable(str(path))
    try:
        with open(path, "rb", opener=_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{shown} is not a file; name a concept's .safetensors file.")
            if status.st_size > MAX_FILE_BYTES:
                raise ValueError(
                    f"{shown} has {status.st_size:,} bytes, but a concept has at most "
                    f"{MAX_FILE_BYTES:,}; it is some other file."
                )
            return from_bytes(file.read(status.st_size + 1), shown)
    except OSError as error:
        raise ValueError(f"{shown} cannot be read: {error.strerror}.") from None


def _at_once(path: str, flags: int) -> int:
    """Open without blocking: a pipe without a writer would block the reader for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def from_bytes(data: bytes, name: str) -> Concept:
    """A checked Concept from a file's contents. Raises ValueError with `name` and the reason."""
    try:
        fields, tensors = parse(data)
    except Refused as reason:
        raise ValueError(f"{name} is not a usable concept file: {reason}.") from None
    shapes = {encoder: tuple(shape) for encoder, shape in fields.pop("trigger_shape").items()}
    fields["triggers"] = {word: tuple(entry) for word, entry in fields["triggers"].items()}
    fields["outputs"] = {part: tuple(layers) for part, layers in fields["outputs"].items()}
    rows = tensors.get("trigger")
    common = tensors.get("common")
    return Concept(
        tensors["deltas"], trigger_rows=rows, trigger_shape=shapes, common=common, **fields
    )


def pack_ranks(ranks: tuple[int, ...]) -> str:
    """Ranks as runs of equal ones, such as "16x128 4 8x3"."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][0] == rank:
            runs[-1][1] += 1
        else:
            runs.append([rank, 1])
    return " ".join(f"{rank}x{count}" if count > 1 else str(rank) for rank, count in runs)
