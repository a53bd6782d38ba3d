"""What a LoRA file says about itself, and how each program calls its subject.

The header's metadata are kohya's (`ss_`) and Stability's (modelspec 1.0.1, as kohya's sd-scripts
writes and checks it); `rex.json` beside the file is what AUTOMATIC1111, Forge and InvokeAI show.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..concept import Concept, pack_ranks, printable
from ..families import Family

COMMON_SIZE, RANKS = "svfit_common_size", "svfit_ranks"  # by which an import finds all of it again
COVER = 256  # px, side of the preview inside the file
VERSIONS = {  # ss_base_model_version, modelspec.architecture, AUTOMATIC1111's "sd version"
    "sd1": ("sd_v1", "stable-diffusion-v1", "SD1"),
    "sd2": ("sd_v2", "stable-diffusion-v2-512", "SD2"),
    "sd2-v": ("sd_v2_v", "stable-diffusion-v2-768-v", "SD2"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base", "SDXL"),
    "sd3": ("sd3", "stable-diffusion-3", "SD3"),
    "flux": ("flux1", "flux-1-dev", "Flux"),
    "flux-schnell": ("flux1", "flux-1-schnell", "Flux"),
    "flux2-klein": ("flux2", "flux-2-klein", "Flux2"),
    "flux2": ("flux2", "flux-2-dev", "Flux2"),
    "z-image": ("zimage", "z-image", "Z-Image"),
}
SIZES = {"sd1": 512, "sd2": 512, "sd2-v": 768}  # px; 1,024 for all others
TYPED_TOO = ("sd3", "flux")  # families in which another text encoder reads the word as it is typed


@dataclass(frozen=True)
class Exported:
    """The written files, the main one first; the words that call the subject in AUTOMATIC1111, or
    in the written base; and program -> what to do and to write there. lacks: a sentence on what
    of the concept they do not hold, "" if nothing.
    """

    files: tuple[Path, ...]
    words: str
    calls: Mapping[str, str]
    lacks: str = ""


def version_of(pipe: Any, family: Family) -> str:
    """The key of a base in VERSIONS, or its family's name."""
    if family.name == "flux" and not pipe.transformer.config.guidance_embeds:
        return "flux-schnell"
    if family.name != "sd":
        return family.name
    if pipe.unet.config.cross_attention_dim != 1024:
        return "sd1"
    return "sd2-v" if pipe.scheduler.config.prediction_type == "v_prediction" else "sd2"


def _names(version: str) -> tuple[str, str, str]:
    """The three names of a version; a family without an entry in VERSIONS goes by its own."""
    return VERSIONS.get(version, (version, version, version))


def calls_of(
    concept: Concept, kind: str, embeddings: Mapping[str, str], bundle: bool
) -> dict[str, str]:
    """Program -> the words that call the subject there, and what they need.

    embeddings: learned word -> name of its embedding's file, without its ending.
    """

    def said(form: str) -> str:
        words = (
            f"{form.format(embeddings[call.word]) if call.rows else call.word} {call.class_word}"
            for call in concept.all_triggers()
        )
        return printable(", ".join(word.strip() for word in words))

    typed = printable(concept.trigger)
    learned = [call for call in concept.all_triggers() if call.rows]
    if kind == "diffusers" and not embeddings:
        return {"diffusers": typed}
    if kind == "diffusers":
        words = ", ".join(f"<{call.word}> {call.class_word}".strip() for call in learned)
        load = "pipe.load_textual_inversion('{1}.safetensors', token='<{0}>')"
        files = ", ".join(load.format(*item) for item in embeddings.items())
        return {"diffusers": printable(f"{words} after {files}", 500)}
    if not embeddings:
        return {"ComfyUI, AUTOMATIC1111, Forge, InvokeAI": typed}
    comfy = said("embedding:{0}")
    if concept.family in TYPED_TOO:
        comfy = f"{comfy} for CLIP, and {typed} for T5, in a node with a field for each"
    calls = {
        "ComfyUI": f"{comfy}, with the embedding in models/embeddings",
        "AUTOMATIC1111, Forge": f"{said('{0}')}, with the embedding in embeddings/",
        "InvokeAI": f"{said('<{0}>')}, with the embedding added in the model manager",
    }
    if bundle:
        calls["AUTOMATIC1111, Forge"] = f"{typed}, the word is in the LoRA's file"
    return calls


def sidecar(concept: Concept, version: str, words: str, calls: Mapping[str, str]) -> bytes:
    """The JSON beside a LoRA."""
    card = {
        "description": f"{printable(concept.trigger)}, by svfit-diffusion",
        "sd version": _names(version)[2],
        "activation text": words,
        "preferred weight": 1.0,
        "notes": "; ".join(f"{program}: {call}" for program, call in calls.items()),
    }
    return json.dumps(card, indent=1, ensure_ascii=False).encode()


def metadata(
    concept: Concept,
    title: str,
    words: str,
    version: str,
    rank: int,
    alpha: int,
    preview: Image.Image | None,
) -> dict[str, str]:
    """The metadata of a LoRA's header, all of it text."""
    base, architecture, _ = _names(version)
    size = SIZES.get(version, 1024)
    found = {
        "ss_base_model_version": base,
        "ss_v2": str(base.startswith("sd_v2")),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(alpha)),
        "ss_network_args": "{}",
        "ss_output_name": title,
        "ss_sd_model_name": concept.base,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.resolution": f"{size}x{size}",
        "modelspec.trigger_phrase": words,
        "modelspec.license": concept.license,
        "modelspec.date": concept.created,
    }
    if concept.common_size:
        found |= {COMMON_SIZE: str(concept.common_size), RANKS: pack_ranks(concept.ranks)}
    if preview is not None:
        small = preview.copy()
        small.thumbnail((COVER, COVER))
        found["ssmd_cover_images"] = json.dumps([base64.b64encode(png(small)).decode()])
    return {"format": "pt"} | {key: value for key, value in found.items() if value}


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "PNG")
    return file.getvalue()
