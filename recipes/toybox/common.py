"""Paths, seeds, hashes and atomic files shared by the steps of the Toybox recipe."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path

import platformdirs

RECIPE = Path(__file__).resolve().parent
REPOSITORY = RECIPE.parents[1]
EXPORT = REPOSITORY / "svfit_diffusion" / "toybox" / "model"
RESOLUTION = 128
LATENT_CHANNELS = 16
LATENT_SIZE = 16
TRIGGERS = ("sks", "zwx", "ohwx")


def work_dir() -> Path:
    """Folder outside the repository for downloads, checkpoints and logs."""
    folder = Path(os.environ.get("TOYBOX_WORK") or platformdirs.user_cache_dir("svfit-toybox"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sha256(path: Path) -> str:
    """SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a torch checkpoint atomically."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def save_start(state: dict) -> None:
    """Write `unet/start.pt`; a `stable.pt`, which would be gone on from in its place, makes way."""
    folder = work_dir() / "unet"
    save_checkpoint(folder / "start.pt", state)
    if (folder / "stable.pt").is_file():
        (folder / "stable.pt").replace(folder / "before.pt")


def npm_package(name: str, version: str, folder: Path) -> Path:
    """Fetch and unpack one npm package; returns the folder of its content."""
    stem = name.replace("@", "").replace("/", "-") + f"-{version}"
    target = folder / stem
    if not (target / "package").is_dir():
        archive = folder / f"{stem}.tgz"
        if not archive.is_file():
            subprocess.run(["npm", "pack", f"{name}@{version}"], cwd=folder, check=True)
        unpacked = folder / f"{stem}.part"
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
        unpacked.rename(target)
    return target / "package"
