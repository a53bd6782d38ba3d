"""Validation of a concept file's bytes, before a Concept is made of them.

Nothing in the file is trusted: its size is limited before it is parsed, and keys, types, lengths
and numbers are checked one by one. Metadata is text to show, never a path or a model to load.
"""

from __future__ import annotations

import base64
import binascii

import numpy as np

from ..settings import ATTENTION, check_common_size
from .packing import MAX_PACKED, blocks, unpack, unpack_vectors
from .self_check import PROBES
from .untrusted import Refused, check_tensors, read_header, read_json, whole_numbers

# 1: no self-check, one trigger only; 3: deltas in four bits; 4: words in outputs, in any bits;
# 5: embeddings of words in four bits too, a common vector
VERSIONS = ("1", "2", "3", "4", "5")
PACKED, OUTPUTS, LATEST = "3", "4", "5"
MAX_FILE_BYTES = 16_000_000  # bytes; the whole spectrum of FLUX.2 takes 4,000,000 in float32
MAX_HEADER = 200_000  # bytes
MAX_TEXT = 2_000  # characters of one metadata field
MAX_WORD = 100  # characters of one of several triggers
MAX_STRENGTH = 1e6
MAX_LAYERS = 1_000  # of a text encoder
TENSORS = ("deltas", "scales", "trigger", "vectors", "vector_scales")
COMMON = ("common", "common_scales")  # tensors of the latest version alone
BYTES = ("deltas", "vectors", "common")  # in four bits
DTYPES = {"F16": 2, "F32": 4, "U8": 1}  # bytes of a number, little-endian
TEXT_FIELDS = (*("rank", "layout", "base", "family", "token", "class_word", "license", "created"),)
JSON_FIELDS = ("targets", "fingerprints", "trigger_shape", "triggers", "outputs", "training")
_REQUIRED = ("rank", "layout", "base", "family", "ranks", "targets", "fingerprints")


def parse(data: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """The checked metadata fields and tensors of a file's bytes. Raises Refused."""
    if len(data) > MAX_FILE_BYTES:
        raise Refused(f"it has {len(data):,} bytes, more than {MAX_FILE_BYTES:,}")
    header, start = read_header(data, len(data), MAX_HEADER)
    text = header.pop("__metadata__", {})
    known = (*TENSORS, *(COMMON if _version(text) == LATEST else ()))
    if unknown := sorted(set(header) - set(known)):
        raise Refused(f"it holds a tensor {unknown[0][:60]!r} that this version does not know")
    if "deltas" not in header:
        raise Refused("it has no tensor 'deltas'; a LoRA or another kind of file, perhaps")
    check_tensors(header, len(data) - start, DTYPES, range(1, 2))
    fields = _check_text(text)
    fields["packed"] = text["version"] == PACKED or (
        text["version"] in (OUTPUTS, LATEST) and "scales" in header
    )
    fields["packed_words"] = text["version"] == LATEST and fields["packed"]
    if text["version"] == LATEST and not fields["packed"] and "common" not in header:
        raise Refused("it has nothing of its version: neither a common vector nor scales")
    tensors = {}
    for name, info in header.items():
        if (info["dtype"] == "U8") != (fields["packed"] and name in BYTES):
            raise Refused(f"its tensor {name!r} is not of the type that its version has")
        (count,), offset = info["shape"], start + info["data_offsets"][0]
        kind = "u1" if info["dtype"] == "U8" else f"<f{DTYPES[info['dtype']]}"
        tensor = np.frombuffer(data, kind, count, offset)
        tensors[name] = tensor.astype(tensor.dtype.newbyteorder("="))  # a copy, aligned
        if not np.isfinite(tensor).all():
            raise Refused(f"its tensor {name!r} holds NaN or infinity; the training failed")
    _unpack_deltas(fields, tensors)
    _unpack_vectors(fields, tensors)
    _unpack_common(fields, tensors)
    _check_sizes(fields, tensors)
    return fields, tensors


def _version(text: object) -> object:
    return text.get("version") if isinstance(text, dict) else None


def _unpack_deltas(fields: dict, tensors: dict[str, np.ndarray]) -> None:
    """Replace deltas in four bits by their values. Raises Refused, also for unexpected scales."""
    scales, ranks = tensors.pop("scales", None), fields["ranks"]
    if fields["packed"] != (scales is not None):
        raise Refused("it has no scales for its deltas, or scales that it does not need")
    if fields["packed"]:
        fit = (scales >= 0).all() and sum(ranks) <= MAX_PACKED
        deltas = unpack(tensors["deltas"], scales, ranks) if fit else None
        if deltas is None:
            raise Refused("its deltas are not levels and scales that match its ranks")
        tensors["deltas"] = deltas


def _unpack_vectors(fields: dict, tensors: dict[str, np.ndarray]) -> None:
    """Put words' vectors in four bits between the rows of other text encoders. Raises Refused."""
    levels, scales = tensors.pop("vectors", None), tensors.pop("vector_scales", None)
    shapes = sorted(fields["trigger_shape"].items())
    parts = fields["trigger_shape"] if fields["packed_words"] else fields["outputs"]
    if {levels is None, scales is None} != {not (fields["packed"] and parts)}:
        raise Refused("it has no vectors for its words, or some that it does not need")
    if levels is not None:
        held = tensors.pop("trigger", np.zeros(0, np.float16))
        found = unpack_vectors(levels, scales, held, shapes, parts)
        if found is None:
            raise Refused("its vectors are not levels and scales that match its words")
        tensors["trigger"] = found


def _unpack_common(fields: dict, tensors: dict[str, np.ndarray]) -> None:
    """Replace a common vector in four bits by its values. Raises Refused for one that cannot be."""
    common, scales = tensors.get("common"), tensors.pop("common_scales", None)
    if (scales is not None) != (common is not None and fields["packed"]):
        raise Refused("it has no scales for its common vector, or scales that it does not need")
    if common is None:
        return
    size = common.size * (2 if fields["packed"] else 1)
    try:
        check_common_size(size, "the size of its common vector")
    except ValueError as error:
        raise Refused(str(error).rstrip(".")) from None
    if fields["packed"]:
        fit = (scales >= 0).all()
        tensors["common"] = unpack(common, scales, blocks(1, size)) if fit else None
        if tensors["common"] is None:
            raise Refused("its common vector is not levels and scales")
    if all(part.startswith("text_encoder") for part in fields["targets"]):
        raise Refused("it holds a common vector, but edits no denoiser")


def _check_text(text: object) -> dict:
    if not isinstance(text, dict) or not all(isinstance(v, str) for v in text.values()):
        raise Refused("its metadata is not text")
    if text.get("format") != "svfit":
        raise Refused("it is not marked as a concept of SVFit")
    if (version := text.get("version", "none")) not in VERSIONS:
        raise Refused(
            f"it has version {version[:20]!r}, and this program reads up to version "
            f"{VERSIONS[-1]}; update svfit-diffusion"
        )
    added = set() if version == "1" else {"check", "triggers"}
    known = {*TEXT_FIELDS, *JSON_FIELDS, "ranks", "format", "version", "check"}
    added |= {"outputs"} if version in (OUTPUTS, LATEST) else set()
    if unknown := sorted(set(text) - (known - {"check", "triggers", "outputs"} | added)):
        raise Refused(f"its metadata has an unknown field {unknown[0][:60]!r}")
    required = _REQUIRED if version == "1" else (*_REQUIRED, "check")
    required = (*required, *(["outputs"] if version == OUTPUTS else []))
    if missing := [key for key in required if not text.get(key)]:
        raise Refused(f"its metadata lacks {missing[0]!r}")
    for key in (*TEXT_FIELDS, *JSON_FIELDS):
        if len(text.get(key, "")) > MAX_TEXT:
            raise Refused(f"its metadata {key!r} is longer than {MAX_TEXT:,} characters")
    fields = {key: text.get(key, "") for key in TEXT_FIELDS}
    fields.update({key: read_json(text.get(key, "{}"), key) for key in JSON_FIELDS})
    fields["ranks"] = unpack_ranks(text["ranks"])
    fields["check"] = _unpack_check(text["check"]) if "check" in text else ()
    _check_objects(fields)
    _check_triggers(fields["triggers"], fields["trigger_shape"])
    return fields


def _check_objects(fields: dict) -> None:
    targets, prints = fields["targets"], fields["fingerprints"]
    if not targets or any(not isinstance(v, str) or v not in ATTENTION for v in targets.values()):
        raise Refused("its targets are not among both, self and cross")
    if set(targets) != set(prints) or not all(
        isinstance(v, str) and len(v) == 32 and set(v) <= set("0123456789abcdef")
        for v in prints.values()
    ):
        raise Refused("its fingerprints are not one hash for each target")
    if not all(whole_numbers(v, range(2, 3), 1) for v in fields["trigger_shape"].values()):
        raise Refused("its trigger's shape is not rows and width for each text encoder")
    if not set(fields["outputs"]) <= set(fields["trigger_shape"]) or not all(
        isinstance(v, list) and len(v) < MAX_LAYERS and all(_is_layer(layer) for layer in v)
        for v in fields["outputs"].values()
    ):
        raise Refused("its outputs are not layers of text encoders that learned a word")
    if not all(isinstance(v, str | int | float | None) for v in fields["training"].values()):
        raise Refused("its training settings are not plain values")


def _is_layer(value: object) -> bool:
    return type(value) is int and abs(value) < MAX_LAYERS


def _check_triggers(triggers: dict, shapes: dict) -> None:
    """Check several triggers, word -> [class word, rows, strength], which must use all rows."""
    for word, entry in triggers.items():
        if not word or len(word) > MAX_WORD or not isinstance(entry, list) or len(entry) != 3:
            raise Refused("its triggers are not words with class word, rows and strength")
        noun, rows, strength = entry
        if not isinstance(noun, str) or not whole_numbers([rows], range(1, 2)):
            raise Refused("its triggers are not words with class word, rows and strength")
        if type(strength) not in (int, float) or not abs(strength) <= MAX_STRENGTH:
            raise Refused("a trigger's strength is not a number in range")
    total = sum(rows for _, rows, _ in triggers.values())
    if triggers and any(total != tokens for tokens, _ in shapes.values()):
        raise Refused("its triggers do not add up to the rows that its metadata states")


def _unpack_check(text: str) -> tuple[float, ...]:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    values = np.frombuffer(data, "<f4") if len(data) == 4 * PROBES else None
    if values is None or not np.isfinite(values).all():
        raise Refused(f"its self-check is not {PROBES} numbers")
    return tuple(values.tolist())


def _check_sizes(fields: dict, tensors: dict[str, np.ndarray]) -> None:
    deltas, rows = tensors["deltas"], tensors.get("trigger")
    if deltas.size != sum(fields["ranks"]):
        raise Refused(
            f"it holds {deltas.size} deltas, but its ranks add up to {sum(fields['ranks'])}"
        )
    wanted = sum(tokens * width for tokens, width in fields["trigger_shape"].values())
    if (0 if rows is None else rows.size) != wanted:
        raise Refused("its trigger tensor does not have the shape that its metadata states")
    if rows is not None and not fields["token"]:
        raise Refused("it holds a learned trigger, but not the word that it belongs to")


def unpack_ranks(text: str) -> tuple[int, ...]:
    """The ranks that `pack_ranks` wrote. Raises Refused for what it never writes."""
    ranks: list[int] = []
    for run in text.split(" "):
        rank, _, count = run.partition("x")
        if not all(part.isascii() and part.isdecimal() for part in (rank, count or "1")):
            raise Refused("its ranks are not whole numbers")
        if len(run) > 16 or not 1 <= int(rank) <= 1 << 20 or not 1 <= int(count or 1) <= 1 << 14:
            raise Refused("its ranks are out of range")
        ranks += [int(rank)] * int(count or 1)
        if len(ranks) > 1 << 14:
            raise Refused("it has more projections than any base")
    return tuple(ranks)
