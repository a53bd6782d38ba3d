"""Describes a base before it is downloaded: family, download size, memory, licence.

Of a Hub id only the file list and the weights' headers are read (kilobytes), never the weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from safetensors import SafetensorError, safe_open

from ...concept import printable
from ...families import FAMILIES, TOYBOX, base_name, family_of_original, original_kind
from ...generation import pick_device, size_text
from ...toybox import path as toybox_path

WEIGHT_FOLDERS = (
    *("unet", "transformer", "unconditional_transformer", "vae", "safety_checker"),
    *("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4"),
)
TITLES = {family.name: family.title for family in FAMILIES}
KNOWN_BASES = {"Toybox": TOYBOX} | {  # for people: a Hub id
    name: source for family in FAMILIES for name, source in family.bases.items()
}
HUB_ADDRESS = re.compile(
    r"^(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([^/?#]+/[^/?#]+).*$"
)
FAMILY_OF_PIPELINE = {
    kind: family.name for family in FAMILIES for kind in (*family.pipelines, *family.editing)
}


@dataclass(frozen=True)
class BaseInfo:
    """download: bytes to download. parameters: how many the weights have."""

    source: str
    family: str
    download: int
    parameters: int
    licence: str

    def sentence(self) -> str:
        """All of this in one sentence."""
        fetch = f"{size_text(self.download)} to download" if self.download else "no download"
        title, needed = TITLES.get(self.family, self.family), memory_sentence(self.parameters)
        return (
            f"{printable(base_name(self.source), 100)}: {title}, {fetch}, {needed} "
            f"Licence: {printable(self.licence, 100)}."
        )


def memory_sentence(parameters: int) -> str:
    """The end of a sentence: the memory that weights need, and what is free here."""
    needed, free = parameters * (4 if pick_device() == "cpu" else 2), free_memory()
    enough = "" if needed < free else " That is more than there is."
    return (
        f"about {size_text(needed)} of memory for its weights, of which {size_text(free)} are free "
        f"here.{enough}"
    )


def free_memory() -> int:
    """Bytes that are free where pictures are generated: on the GPU, or here."""
    if pick_device() == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def describe_base(source: str, local: bool = True) -> BaseInfo:
    """Describe "toybox", a diffusers folder, a .safetensors file or a Hub id; else ValueError.

    local: whether paths on this machine are allowed.
    """
    source = source.strip().strip("'\"")
    if found := HUB_ADDRESS.match(source):
        source = found[1]
    if source.lower() == TOYBOX:
        return _folder(TOYBOX, toybox_path(), "MIT")
    path = Path(source).expanduser()
    if local and source and path.is_dir():
        return _folder(str(path), path, "as its author states")
    if local and source and path.is_file():
        return _file(str(path), path)
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _hub(source)
    raise ValueError(_no_base(source, local))


def _no_base(source: str, local: bool) -> str:
    """Why a text names no base."""
    shown = f"“{printable(source, 200)}”"
    looks_like_path = source.startswith((".", "/", "~")) or "\\" in source or ":" in source
    if local and looks_like_path:
        return f"There is no file or folder {shown} on this machine; check the path."
    places = ", a diffusers folder or a .safetensors file" if local else ""
    return f"{shown} is not a base: expected toybox, a Hub id such as owner/name{places}."


def _folder(source: str, path: Path, licence: str) -> BaseInfo:
    try:
        kind = json.loads((path / "model_index.json").read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path.name} is not a diffusers folder: it has no model_index.json; choose the folder "
            "that has one."
        ) from None
    files = (file for part in WEIGHT_FOLDERS for file in (path / part).glob("*.safetensors"))
    return BaseInfo(
        source, _family(kind), 0, sum(map(_parameter_count, _one_variant(files))), licence
    )


def _one_variant(files: Iterable[Path]) -> list[Path]:
    """The files without a variant (such as model.fp16.safetensors), or all if each has one."""
    files = list(files)
    return [file for file in files if file.name.count(".") == 1] or files


def _file(source: str, path: Path) -> BaseInfo:
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} is not a .safetensors file; other kinds can contain code.")
    count = _parameter_count(path)
    with safe_open(path, "np") as file:
        names = "\n".join(file.keys())
    try:
        family = family_of_original(original_kind(path)).name
    except ValueError:
        family = None
    if family is None or (family == "sd" and "model.diffusion_model." not in names):
        raise ValueError(
            f"{path.name} is not a complete checkpoint of a supported base; choose a diffusers "
            "folder or a Hub id."
        )
    return BaseInfo(source, family, 0, count, "as its author states")


def _parameter_count(path: Path) -> int:
    """The number of parameters in a safetensors file, by its header."""
    try:
        with safe_open(path, "np") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    except SafetensorError:
        raise ValueError(f"{path.name} is damaged; download it again.") from None


def _hub(source: str) -> BaseInfo:
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        info = api.model_info(source, files_metadata=True, timeout=10)
        files = _files_to_download({file.rfilename: file.size or 0 for file in info.siblings or []})
        weights = [name for name in files if name.endswith(".safetensors")]
        headers = [api.parse_safetensors_file_metadata(source, name) for name in weights]
    except Exception as error:  # the exception types differ between versions of huggingface_hub
        raise ValueError(_hub_error(source, error)) from None
    family = _family(((info.config or {}).get("diffusers") or {}).get("_class_name", "none"))
    count = sum(sum(header.parameter_count.values()) for header in headers)
    licence = (info.card_data or {}).get("license") or "not stated"
    if info.gated:
        licence = f"{licence}, which must be accepted on its page on the Hub first"
    return BaseInfo(source, family, sum(files.values()), count, str(licence))


def _hub_error(source: str, error: Exception) -> str:
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError):
        return f"The Hub has no public model “{printable(source, 100)}”; check the spelling."
    return (
        f"The Hub could not be asked about “{printable(source, 100)}”; check the connection, or "
        "choose a base that is on this machine."
    )


def _files_to_download(sizes: dict[str, int]) -> dict[str, int]:
    """The files of a repository that diffusers downloads, with their bytes."""
    chosen = {}
    for name, size in sizes.items():
        part, _, file = name.partition("/")
        if part in WEIGHT_FOLDERS and file.endswith(".safetensors"):
            if file.count(".") == 1:
                chosen[name] = size
        elif name == "model_index.json" or file.endswith((".json", ".txt", ".model")):
            chosen[name] = size
    return chosen


def _family(kind: str) -> str:
    if kind not in FAMILY_OF_PIPELINE:
        known = ", ".join(FAMILY_OF_PIPELINE)
        raise ValueError(f"This base is a {printable(str(kind), 60)}; supported are: {known}.")
    return FAMILY_OF_PIPELINE[kind]
