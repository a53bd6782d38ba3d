"""Where concept files lie: models/concepts, and those that were put among the LoRAs."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import folder_paths

from svfit_diffusion.concept import MAX_FILE_BYTES, Concept, read_concept

KIND, SUFFIX = "concepts", ".safetensors"
_MARK = b'"format":"svfit"'
_SEEN: dict[tuple[str, int, int], bool] = {}


def register() -> None:
    """Make `concepts` a kind of model, in a folder of its own beside those of ComfyUI."""
    own = os.path.join(folder_paths.models_dir, KIND)
    os.makedirs(own, exist_ok=True)
    folder_paths.add_model_folder_path(KIND, own, is_default=True)
    paths, _ = folder_paths.folder_names_and_paths[KIND]
    folder_paths.folder_names_and_paths[KIND] = (paths, {SUFFIX})


def names() -> list[str]:
    """The names of all concept files, sorted; those among the LoRAs too."""
    among = [name for name in folder_paths.get_filename_list("loras") if _is_concept(name)]
    return sorted({*folder_paths.get_filename_list(KIND), *among})


def path_of(name: str) -> Path:
    """The path of a concept file; ValueError where it is no longer there."""
    for kind in (KIND, "loras"):
        if found := folder_paths.get_full_path(kind, name):
            return Path(found)
    raise ValueError(
        f"the concept {name!r} is in none of the folders {', '.join(_folders())}; put it there and "
        "refresh the list."
    )


def read(name: str) -> Concept:
    """The checked concept of a file."""
    return read_concept(path_of(name))


def digest(name: str) -> str:
    """What changes when the file does."""
    return hashlib.sha256(path_of(name).read_bytes()).hexdigest()


def preview_of(name: str) -> Path | None:
    """The picture beside a concept file, if there is one: rex.png for rex.safetensors."""
    path = path_of(name)
    beside = (path.with_suffix(suffix) for suffix in (".png", ".jpg", ".jpeg", ".webp"))
    return next((picture for picture in beside if picture.is_file()), None)


def _folders() -> list[str]:
    return [*folder_paths.get_folder_paths(KIND), *folder_paths.get_folder_paths("loras")]


def _is_concept(name: str) -> bool:
    """Whether a file among the LoRAs is a concept, by its size and its header's mark."""
    path = folder_paths.get_full_path("loras", name)
    if path is None or not name.endswith(SUFFIX):
        return False
    try:
        status = os.stat(path)
        if status.st_size > MAX_FILE_BYTES:
            return False
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in _SEEN:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                _SEEN[key] = length < status.st_size and _MARK in file.read(length)
    except OSError:  # deleted meanwhile, or not ours to read
        return False
    return _SEEN[key]
