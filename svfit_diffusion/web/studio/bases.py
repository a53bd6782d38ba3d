"""What a base is, before anything of it is fetched: family, download, memory, licence.

Of a Hub id the file list and the weights' headers are read (kilobytes), never the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ...concept import printable
from ...families import FAMILIES, TOYBOX, base_name, family_of_original, original_kind
from ...generation import pick_device, size_text
from ...toybox import path as toybox_path

PARTS = (
    *("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"),
    "safety_checker",
)
KINDS = {kind: family.name for family in FAMILIES for kind in family.pipelines}


@dataclass(frozen=True)
class Base:
    """A base as described. download: bytes to fetch. parameters: numbers it holds in memory."""

    source: str
    family: str
    download: int
    parameters: int
    licence: str

    def sentence(self) -> str:
        """All of it in one line of text."""
        fetch = f"{size_text(self.download)} to download" if self.download else "no download"
        memory = self.parameters * (4 if pick_device() == "cpu" else 2)
        return (
            f"{printable(base_name(self.source), 100)}: family {self.family}, {fetch}, about "
            f"{size_text(memory)} of memory, licence: {printable(self.licence, 100)}."
        )


def describe(source: str, local: bool = True) -> Base:
    """What a base is: "toybox", a diffusers folder, a .safetensors file, or a Hub id.

    local: whether paths on this machine may be named. ValueError, one sentence, for anything else.
    """
    source = source.strip()
    if source == TOYBOX:
        return _folder(TOYBOX, toybox_path(), "MIT")
    path = Path(source)
    if local and source and path.is_dir():
        return _folder(source, path, "as its author states")
    if local and source and path.is_file():
        return _file(source, path)
    if source.count("/") == 1 and not source.startswith((".", "/", "~")):
        return _hub(source)
    raise ValueError(
        f"{printable(source, 100)!r} is no base: expected 'toybox', a Hub id such as owner/name"
        f"{', a diffusers folder or a .safetensors file' if local else ''}."
    )


def _folder(source: str, path: Path, licence: str) -> Base:
    try:
        kind = json.loads((path / "model_index.json").read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path.name} is no diffusers folder: it has no model_index.json; choose the folder "
            "that holds one."
        ) from None
    files = (file for part in PARTS for file in (path / part).glob("*.safetensors"))
    return Base(source, _family(kind), 0, sum(map(_count, _one_variant(files))), licence)


def _one_variant(files: Iterable[Path]) -> list[Path]:
    """The files without a variant's name (model.fp16.safetensors) where there are such."""
    files = list(files)
    return [file for file in files if file.name.count(".") == 1] or files


def _file(source: str, path: Path) -> Base:
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} is no .safetensors file; other kinds can carry code.")
    count = _count(path)
    with safe_open(path, "np") as file:
        names = "\n".join(file.keys())
    try:
        family = family_of_original(original_kind(path)).name
    except ValueError:
        family = None
    if family is None or (family == "sd" and "model.diffusion_model." not in names):
        raise ValueError(
            f"{path.name} is no checkpoint of a whole base that is supported; choose a diffusers "
            "folder or a Hub id."
        )
    return Base(source, family, 0, count, "as its author states")


def _count(path: Path) -> int:
    """How many numbers a safetensors file holds, by its header."""
    try:
        with safe_open(path, "np") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    except SafetensorError:
        raise ValueError(f"{path.name} is damaged; get it again.") from None


def _hub(source: str) -> Base:
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        info = api.model_info(source, files_metadata=True, timeout=10)
        wanted = _to_fetch({file.rfilename: file.size or 0 for file in info.siblings or []})
        weights = [name for name in wanted if name.endswith(".safetensors")]
        heads = [api.parse_safetensors_file_metadata(source, name) for name in weights]
    except Exception as error:  # each version of the Hub's client has a transport of its own
        raise ValueError(_unreachable(source, error)) from None
    family = _family(((info.config or {}).get("diffusers") or {}).get("_class_name", "none"))
    count = sum(sum(head.parameter_count.values()) for head in heads)
    licence = (info.card_data or {}).get("license") or "not stated"
    if info.gated:
        licence = f"{licence}, to be accepted on its page on the Hub first"
    return Base(source, family, sum(wanted.values()), count, str(licence))


def _unreachable(source: str, error: Exception) -> str:
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError):
        return f"The Hub has no public model {printable(source, 100)!r}; check how it is written."
    return (
        f"The Hub cannot be asked about {printable(source, 100)!r} now; check the "
        "connection, or name a base that is on this machine."
    )


def _to_fetch(sizes: dict[str, int]) -> dict[str, int]:
    """The files of a repository that loading it fetches, with their bytes."""
    chosen = {}
    for name, size in sizes.items():
        part, _, file = name.partition("/")
        if part in PARTS and file.endswith(".safetensors"):
            if file.count(".") == 1:
                chosen[name] = size
        elif name == "model_index.json" or file.endswith((".json", ".txt", ".model")):
            chosen[name] = size
    return chosen


def _family(kind: str) -> str:
    if kind not in KINDS:
        known = ", ".join(KINDS)
        raise ValueError(
            f"This base is a {printable(str(kind), 60)!r}, and those supported are: {known}."
        )
    return KINDS[kind]
