"""Checkpoints of a training: a folder each, written atomically; old ones are deleted only after.

Only what is trained is in them (parameters and optimizer, some kilobytes): randomness depends on
the seed and the step alone, and the frozen base is at hand. A checkpoint is complete when its
manifest is there, which holds the SHA-256 of its files and is written last; nothing in it can run
code when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..concept import fsync_path, remove_leftovers, replace_file

log = logging.getLogger(__name__)
STATE, SETTINGS, MANIFEST = "state.safetensors", "state.json", "manifest.json"
State = tuple[dict[str, Tensor], dict[str, Any]]


class Damaged(ValueError):
    """A checkpoint that is not what was written; the message names it."""


class Checkpoints:
    """The checkpoints in the folder of one training.

    limit: how many are kept, None for all. own: the names of those that this training wrote or
    goes on from; any other in the folder is of a training that this one replaces, and goes when
    this one's first is complete.
    """

    def __init__(self, folder: str | Path, limit: int | None = None) -> None:
        self.folder, self.limit, self.own = Path(folder), limit, set()

    def held(self) -> list[Path]:
        """The complete checkpoints, in the order they were written."""
        found = (p for p in self.folder.glob("checkpoint-*") if re.fullmatch(r"\d+", p.name[11:]))
        return sorted((p for p in found if (p / MANIFEST).is_file()), key=_number)

    def save(self, step: int, tensors: dict[str, Tensor], settings: dict[str, Any]) -> Path:
        """Write `checkpoint-<step>`; only then delete the oldest beyond the limit."""
        fresh = self.folder / f".checkpoint-{step}.tmp"
        shutil.rmtree(fresh, ignore_errors=True)
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        contents = {STATE: save(plain), SETTINGS: json.dumps(settings).encode()}
        numbers = [n for n in map(_number, self.held()) if n < math.inf]
        manifest = {
            "number": 1 + max(numbers, default=0),
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
        }
        try:
            for name, data in contents.items():
                replace_file(fresh / name, data)
            replace_file(fresh / MANIFEST, json.dumps(manifest).encode())
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        path = _settle(fresh)
        self.own.add(path.name)
        kept = [old for old in self.held() if old.name in self.own][-(self.limit or 0) :]  # 0: all
        for old in self.held():
            if old not in kept:
                _remove(old)
        return path

    def load(self, wanted: str) -> tuple[Path, State] | None:
        """The checkpoint that `--resume_from_checkpoint` names, and what it holds.

        "latest" is the newest that is whole, and None where there is none at all. A checkpoint
        that is named and is missing or damaged is a ValueError, never a fresh start.
        """
        held = self.held()
        if wanted != "latest":
            found = self._named(wanted)
        elif not held:
            return None
        else:
            found = self._newest(held)
        later = {path.name for path in held if _number(path) > _number(found[0])}
        ours = found[0].resolve().parent == self.folder.resolve()
        self.own = {path.name for path in held} - later if ours else set()
        return found

    def _newest(self, held: list[Path]) -> tuple[Path, State]:
        for path in reversed(held):
            try:
                return path, read_checkpoint(path)
            except Damaged as error:
                log.warning("%s; the one before it is taken.", error)
        raise ValueError(
            f"no checkpoint in {self.folder} is whole; delete them to start anew, or name one that "
            "lies elsewhere."
        )

    def _named(self, wanted: str) -> tuple[Path, State]:
        for path in (Path(wanted), self.folder / wanted):
            if (path / MANIFEST).is_file():
                try:
                    return path, read_checkpoint(path)
                except Damaged as error:
                    raise ValueError(f"{error}; resume from another one.") from None
        held = ", ".join(path.name for path in self.held()) or "none"
        raise ValueError(
            f"there is no complete checkpoint {wanted!r}; {self.folder} holds: {held}."
        )


@contextlib.contextmanager
def folder_lock(folder: str | Path) -> Iterator[None]:
    """Keep other trainings out of a folder; ValueError where one is in it.

    The lock is the process's own, so that it ends with it, however it ends. What a training that
    was killed left behind is put in order.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".training.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another training is writing into {folder}; wait until it ends, or pass another "
            "--output_dir."
        ) from None
    try:
        remove_leftovers(folder)
        for fresh in folder.glob(".checkpoint-*.tmp"):
            if (fresh / MANIFEST).is_file():  # complete, but killed before it had its name
                _settle(fresh)
            else:
                shutil.rmtree(fresh)
        for old in folder.glob(".checkpoint-*.old"):
            shutil.rmtree(old)
        yield
    finally:
        lock.release()


def read_checkpoint(path: Path) -> State:
    """Tensors and settings of a checkpoint; Damaged where they are not what was written."""
    try:
        digests = json.loads((path / MANIFEST).read_bytes())["sha256"]
        contents = {name: (path / name).read_bytes() for name in (STATE, SETTINGS)}
        for name, data in contents.items():
            if hashlib.sha256(data).hexdigest() != digests[name]:
                raise ValueError(f"{name} has changed")
        return load(contents[STATE]), json.loads(contents[SETTINGS])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise Damaged(f"the checkpoint {path} is damaged ({error})") from None


def _number(path: Path) -> float:
    """Which checkpoint of its folder this was; a damaged manifest counts as the newest."""
    try:
        return int(json.loads((path / MANIFEST).read_bytes())["number"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf


def _settle(fresh: Path) -> Path:
    """Give a complete checkpoint its name. Until then its temporary folder stands for it."""
    path = fresh.with_name(fresh.name.removeprefix(".").removesuffix(".tmp"))
    if path.exists():
        _remove(path)
    os.replace(fresh, path)
    fsync_path(path.parent)
    return path


def _remove(path: Path) -> None:
    """Delete a checkpoint, first its name: what is half deleted is none."""
    nameless = path.with_name(f".{path.name}.old")
    shutil.rmtree(nameless, ignore_errors=True)
    os.replace(path, nameless)
    shutil.rmtree(nameless)


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: "optimizer.<parameter>.<entry>"."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{i}.{key}": torch.as_tensor(value)
        for i, entries in state.items()
        for key, value in entries.items()
    }


def changed_defaults(optimizer: torch.optim.Optimizer) -> list[dict[str, float]]:
    """What an optimizer has found out for each group, as prodigy does its rate `d`."""
    configured = {"lr", "weight_decay"}
    return [
        {
            key: value
            for key, value in group.items()
            if key in optimizer.defaults
            and key not in configured
            and isinstance(value, int | float)
            and value != optimizer.defaults[key]
        }
        for group in optimizer.param_groups
    ]


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put packed state back into an optimizer of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, i, key = name.split(".", 2)
            state.setdefault(int(i), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
