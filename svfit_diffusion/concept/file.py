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
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .atomic import replace_file
from .concept import Concept
from .header import LATEST, MAX_FILE_BYTES, OUTPUTS, PACKED, TEXT_FIELDS, parse
from .packing import blocks, pack
from .untrusted import Refused, printable

KINDS = {"f": "F", "u": "U"}  # numpy's kinds of numbers -> safetensors'


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
