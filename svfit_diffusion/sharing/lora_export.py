"""Export for other programs: a LoRA file (kohya or diffusers), or the base with the concept merged.

`rex.json` and `rex.png` beside `rex.safetensors` are what AUTOMATIC1111, Forge and InvokeAI show.
A learned trigger is written as a textual-inversion embedding, `rex-sks.safetensors`; in these
programs its file name calls the subject: "a photo of rex-sks dog". (With diffusers on SDXL, first
set `eos_token_id` of the second text encoder to its tokenizer's: the published file says 2, for
which transformers pools at the largest token id, and an added token's id is larger than the end's.)
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save
from tokenizers import AddedToken
from torch import nn

from ..concept import Concept, Trigger, printable, replace_file
from ..families import Family, recognise
from ..pipeline import (
    check_strength,
    checked_bases,
    fuse_concepts,
    load_concept,
    loaded_concepts,
    trigger,
)
from .lora import lora_tensors

DTYPES = ("float32", "float16", "bfloat16")
COVER = 256  # px, side of the preview inside the file
VERSIONS = {  # ss_base_model_version, modelspec.architecture, AUTOMATIC1111's "sd version"
    "sd1": ("sd_v1", "stable-diffusion-v1", "SD1"),
    "sd2": ("sd_v2", "stable-diffusion-v2-768-v", "SD2"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base", "SDXL"),
    "sd3": ("sd3", "stable-diffusion-3", "SD3"),
    "flux": ("flux1", "flux-1", "Flux"),
    "flux2-klein": ("flux2", "flux-2-klein", "Flux2"),
    "flux2": ("flux2", "flux-2-dev", "Flux2"),
    "z-image": ("zimage", "z-image", "Z-Image"),
}


@dataclass(frozen=True)
class Exported:
    """The written files, the main one first, and the words that call the subject there."""

    files: tuple[Path, ...]
    words: str


def export_lora(
    concept: Concept,
    pipe: Any,
    path: str | Path,
    kind: str = "kohya",
    dtype: str = "float32",
    strength: float = 1.0,
    preview: Image.Image | None = None,
) -> Exported:
    """Write a concept of the base `pipe` as a LoRA, with the files that belong to it.

    kind: "kohya" or "diffusers". dtype: of the LoRA; float32 is exact up to rounding. strength:
    multiplied into the values. Raises ValueError when concept and base do not belong together.
    """
    path, family = Path(path), recognise(pipe)
    check_strength(strength)
    plan, bases = checked_bases(pipe, family, concept)
    tensors = lora_tensors(concept, plan, bases, kind, strength, _dtype(dtype))
    version = VERSIONS[_version(pipe, family)]
    words, embeddings = _embeddings(concept, pipe, family, path, strength)
    metadata = _metadata(concept, path.stem, words, version, max(concept.ranks), preview)
    files = [replace_file(path, _with_hash(tensors, metadata))]
    for file, rows in embeddings.items():
        files.append(replace_file(file, save(rows, {"format": "pt"})))
    card = {
        "description": f"{printable(concept.trigger)}, by svfit-diffusion",
        "sd version": version[2],
        "activation text": words,
        "preferred weight": 1.0,
    }
    text = json.dumps(card, indent=1, ensure_ascii=False)
    files.append(replace_file(path.with_suffix(".json"), text.encode()))
    if preview is not None:
        files.append(replace_file(path.with_suffix(".png"), _png(preview)))
    return Exported(tuple(files), words)


def plain_name(text: str) -> str:
    """A name that every program reads: of letters, digits, - and _, or "concept"."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-")[:60] or "concept"


def lora_files(concept: Concept, path: str | Path) -> list[Path]:
    """All files that `export_lora` may write for a path, the main one first."""
    path = Path(path)
    embeddings = [_embedding_file(path, call) for call in concept.all_triggers() if call.rows]
    return [path, *embeddings, path.with_suffix(".json"), path.with_suffix(".png")]


def export_pipeline(
    concept: Concept, pipe: Any, folder: str | Path, dtype: str = "float32", strength: float = 1.0
) -> Exported:
    """Write the base `pipe` with the concept merged into its weights, as a diffusers folder.

    The pipeline is changed and cannot be used as the base afterwards. A learned trigger replaces
    the embedding of its word, so that any program understands it; a trigger of several tokens is
    added as `<word>`.
    """
    family = recognise(pipe)
    if loaded_concepts(pipe):
        raise ValueError("the pipeline has concepts loaded; export with a freshly loaded base.")
    plain = replace(concept, trigger_rows=None, trigger_shape={}, triggers={})
    load_concept(pipe, plain, strength, name="fused")
    fuse_concepts(pipe)
    words = [_write_trigger(one, pipe, family, strength) for one in concept.all_triggers()]
    pipe.to(_dtype(dtype)).save_pretrained(folder)
    return Exported((Path(folder),), printable(", ".join(words)))


def _embedding_file(path: Path, call: Trigger) -> Path:
    """A learned word's file, whose name calls it: a word that other programs' prompts can hold."""
    return path.with_name(f"{plain_name(path.stem)}-{plain_name(call.word)[:40]}.safetensors")


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ValueError(f"dtype is {name!r}, but must be one of {', '.join(DTYPES)}.")
    return getattr(torch, name)


def _version(pipe: Any, family: Family) -> str:
    if family.name != "sd":
        return family.name
    return "sd2" if pipe.unet.config.cross_attention_dim == 1024 else "sd1"


def _embeddings(
    concept: Concept, pipe: Any, family: Family, path: Path, strength: float
) -> tuple[str, dict[Path, dict[str, torch.Tensor]]]:
    """The words that call the subject, and path -> tensors of each learned trigger's embedding."""
    words, files = [], {}
    keys = ("emb_params",) if family.name == "sd" else ("clip_l", "clip_g")
    for call in concept.all_triggers():
        if not call.rows:
            words.append(printable(str(call)))
            continue
        file = _embedding_file(path, call)
        rows = {}
        for key, (tokenizer, part) in zip(keys, family.encoders, strict=False):
            if part in call.rows:
                models = getattr(pipe, tokenizer), getattr(pipe, part)
                rows[key] = trigger.scaled_rows([call], part, strength, *models)
        files[file] = rows
        words.append(printable(f"{file.stem} {call.class_word}".strip()))
    return ", ".join(words), files


def _metadata(
    concept: Concept,
    title: str,
    words: str,
    version: tuple[str, str, str],
    rank: int,
    preview: Image.Image | None,
) -> dict[str, str]:
    found = {
        "ss_base_model_version": version[0],
        "ss_v2": str(version[0] == "sd_v2"),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_output_name": title,
        "ss_sd_model_name": concept.base,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{version[1]}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.trigger_phrase": words,
        "modelspec.license": concept.license,
        "modelspec.date": concept.created,
    }
    if preview is not None:
        small = preview.copy()
        small.thumbnail((COVER, COVER))
        found["ssmd_cover_images"] = json.dumps([base64.b64encode(_png(small)).decode()])
    return {"format": "pt"} | {key: value for key, value in found.items() if value}


def _with_hash(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """The file's bytes, with the SHA-256 of everything after the header in its metadata."""
    data = save(tensors)
    digest = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    more = {"sshs_model_hash": digest, "modelspec.hash_sha256": f"0x{digest}"}
    return save(tensors, metadata | more)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return file.getvalue()


@torch.no_grad()
def _write_trigger(call: Trigger, pipe: Any, family: Family, strength: float) -> str:
    """Write a learned trigger into the text encoders' tables; returns the words that call it."""
    parts = [(getattr(pipe, t), getattr(pipe, p), p) for t, p in family.encoders if p in call.rows]
    found = [tokenizer(call.word, add_special_tokens=False).input_ids for tokenizer, _, _ in parts]
    count = max((len(rows) for rows in call.rows.values()), default=0)
    single = count == 1 and all(len(ids) == 1 for ids in found)
    for tokenizer, encoder, part in parts:
        rows = trigger.scaled_rows([call], part, strength, tokenizer, encoder)
        if single:
            ids = tokenizer(call.word, add_special_tokens=False).input_ids
        else:  # diffusers reads `<word>` as `<word> <word>_1 ...`
            names = [f"<{call.word}>", *(f"<{call.word}>_{i}" for i in range(1, count))]
            added = [AddedToken(name, normalized=False, special=False) for name in names]
            tokenizer.add_tokens(added)
            ids = tokenizer.convert_tokens_to_ids(names)
            encoder.resize_token_embeddings(len(tokenizer))
            trigger.pool_at_end(encoder, tokenizer)
            encoder.config.eos_token_id = tokenizer.eos_token_id
        table: nn.Embedding = encoder.get_input_embeddings()
        table.weight[ids] = rows.to(table.weight)
    return str(call) if single or not count else f"<{call.word}> {call.class_word}".strip()
