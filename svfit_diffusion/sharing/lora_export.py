"""Export for other programs: a LoRA file, in kohya's form or in diffusers'.

A learned trigger is written as a textual-inversion embedding, `rex-sks.safetensors`, whose file
name calls the subject (lora_card.py: how in each program), or into the LoRA itself. (With diffusers
on SDXL, first set `eos_token_id` of the second text encoder to its tokenizer's: the published file
says 2, for which transformers pools at the largest token id, and an added token's id is larger than
the end's.)
"""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from ..concept import Concept, printable, replace_file
from ..families import Family, recognise
from ..pipeline import check_strength, checked_bases, trigger
from .lora import lora_tensors
from .lora_card import Exported, calls_of, metadata, png, sidecar, version_of

DTYPES = ("float32", "float16", "bfloat16")
T = TypeVar("T")


def export_lora(
    concept: Concept,
    pipe: Any,
    path: str | Path,
    kind: str = "kohya",
    dtype: str = "float16",
    strength: float = 1.0,
    preview: Image.Image | None = None,
    bundle: bool = False,
    announce: Callable[[int], None] = lambda size: None,
) -> Exported:
    """Write a concept of the base `pipe` as a LoRA, with the files that belong to it.

    kind: "kohya" or "diffusers". dtype: of the LoRA; float32 is exact up to rounding. strength:
    multiplied into the values and the learned word. bundle: put the learned word into the LoRA
    itself, under its own name, which AUTOMATIC1111 and Forge read (kohya only). announce: gets the
    LoRA's size in bytes before anything is written. Raises ValueError when concept and base do not
    belong together.
    """
    path, family, lacks = Path(path), recognise(pipe), concept.output_words
    concept = concept.without_outputs()
    check_strength(strength)
    precision = checked_dtype(dtype)
    if bundle and kind != "kohya":
        raise ValueError("a learned word can be bundled in kohya's format only; pass --to kohya.")
    plan, bases = checked_bases(pipe, family, concept)
    models = family.components(pipe)
    tensors = lora_tensors(concept, plan, _taken(bases), kind, models, strength, precision)
    ranks = [len(t) for name, t in tensors.items() if name.endswith(("down.weight", "A.weight"))]
    alpha = min(ranks) if kind == "kohya" else max(ranks)
    version = version_of(pipe, family)
    learned = _learned(concept, pipe, family, strength)
    files_of = embedding_files(path, learned)
    names = {word: file.stem for word, file in files_of.items()}
    calls = calls_of(concept, kind, names, bundle)
    words = printable(
        ", ".join(
            f"{call.word if bundle else names.get(call.word, call.word)} {call.class_word}".strip()
            for call in concept.all_triggers()
        )
    )
    if bundle:
        plain = plain_words(learned)
        tensors |= {k: t for w in learned for k, t in _bundled(plain[w], learned[w])}
    facts = metadata(concept, path.stem, words, version, max(ranks), alpha, preview)
    data = _with_hash(tensors, facts)
    announce(len(data))
    files = [replace_file(path, data)]
    for word, rows in learned.items():
        files.append(replace_file(files_of[word], save(rows, {"format": "pt"})))
    files.append(replace_file(path.with_suffix(".json"), sidecar(concept, version, words, calls)))
    if preview is not None:
        files.append(replace_file(path.with_suffix(".png"), png(preview)))
    return Exported(tuple(files), words, calls, lacks)


def plain_name(text: str) -> str:
    """A name that every program reads: of letters, digits, - and _, or "concept"."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-")[:60] or "concept"


def lora_files(concept: Concept, path: str | Path) -> list[Path]:
    """All files that `export_lora` may write for a path, the main one first."""
    path = Path(path)
    calls = concept.without_outputs().all_triggers()
    embeddings = embedding_files(path, [call.word for call in calls if call.rows]).values()
    return [path, *embeddings, path.with_suffix(".json"), path.with_suffix(".png")]


def checked_dtype(name: str) -> torch.dtype:
    """The precision of this name. Raises ValueError for one that files are not written in."""
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}, but must be one of {', '.join(DTYPES)}.")
    return getattr(torch, name)


def _taken(held: list[T]) -> Iterator[T]:
    """The items in their order, each let go when the next one is asked for."""
    held.reverse()
    while held:
        yield held.pop()


def embedding_files(path: Path, words: Iterable[str]) -> dict[str, Path]:
    """Each learned word's file, whose name calls it in other programs' prompts."""
    stem = plain_name(path.stem.removesuffix("-kohya"))  # by which the command names its file
    names = plain_words(words)
    return {word: path.with_name(f"{stem}-{name}.safetensors") for word, name in names.items()}


def plain_words(words: Iterable[str]) -> dict[str, str]:
    """A plain name of its own for each word; those that would be alike are numbered."""
    found: dict[str, str] = {}
    for word in words:
        first, taken = plain_name(word)[:40], {name.lower() for name in found.values()}
        more = (f"{first}-{number}" for number in itertools.count(2))
        free = (name for name in itertools.chain([first], more) if name.lower() not in taken)
        found.setdefault(word, next(free))
    return found


def _learned(
    concept: Concept, pipe: Any, family: Family, strength: float
) -> dict[str, dict[str, Tensor]]:
    """Learned word -> tensors of its embedding, by the names of the file format."""
    keys = ("emb_params",) if family.name == "sd" else ("clip_l", "clip_g")
    found: dict[str, dict[str, Tensor]] = {}
    for call in concept.all_triggers():
        for key, (tokenizer, part) in zip(keys, family.encoders, strict=False):
            if part in call.rows:
                models = getattr(pipe, tokenizer), getattr(pipe, part)
                rows = trigger.scaled_rows([call], part, strength, *models)
                found.setdefault(call.word, {})[key] = rows
    return found


def _bundled(name: str, rows: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """A learned word's tensors, by the names under which AUTOMATIC1111 reads them from a LoRA."""
    start = f"bundle_emb.{name}"
    ends = {"emb_params": "string_to_param.*"}
    return [(f"{start}.{ends.get(key, key)}", tensor) for key, tensor in rows.items()]


def _with_hash(tensors: dict[str, Tensor], facts: dict[str, str]) -> bytes:
    """The file's bytes, with the SHA-256 of everything after the header in its metadata."""
    data = save(tensors)
    start = 8 + int.from_bytes(data[:8], "little")
    digest = hashlib.sha256(memoryview(data)[start:]).hexdigest()
    del data  # as large as the tensors, and made once more
    return save(
        tensors, facts | {"sshs_model_hash": digest, "modelspec.hash_sha256": f"0x{digest}"}
    )
