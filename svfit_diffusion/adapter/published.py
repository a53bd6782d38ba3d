"""The published weights of a base: where each lies on disk, and whether it is what was loaded.

A concept is a change in the basis of the *published* weight, so weights are read from the
checkpoint's file where there is one, not from the loaded and perhaps cast tensor, and rounded to
the precision the base is published in. A folder may hold several variants of a model; the one that
was loaded is found by comparing a sample of each weight's values. Where no file agrees, the
weights were changed after they were loaded, and they themselves are the base.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .loaded_weights import (
    agree,
    comparable,
    innermost,
    is_gguf,
    loaded_weight,
    quantization,
    sample,
)

SAMPLES, SAMPLE_BYTES = 64, 4096  # of a file, to identify it
T = TypeVar("T")
_REMEMBERED: ContextVar[dict[Hashable, Any] | None] = ContextVar("remembered", default=None)
SHARD = re.compile(r"-\d{5}-of-\d{5}")


@dataclass(frozen=True)
class Source:
    """The weights of some modules, readable one at a time, and what tells them from others.

    files: module name -> (file, tensor name); empty where the loaded weights are the source.
    identity: of all these weights together.
    """

    names: tuple[str, ...]
    identity: str
    dtype: torch.dtype | None
    files: Mapping[str, tuple[Path, str]]
    model: nn.Module

    @property
    def coarse(self) -> bool:
        """Whether the weights are only there in a precision that cannot hold the published one."""
        if self.files or self.dtype is None:
            return False
        first, _ = innermost(self.model.get_submodule(self.names[0]))
        exact = (self.dtype, torch.float32, torch.float64)
        rounded = quantization(first) is not None or is_gguf(first)
        return rounded or first.weight.dtype not in exact

    def entries(self) -> Iterator[tuple[str, dict[str, str]]]:
        """The weights by where they lie: an identity, and module name -> key, unique there.

        A file has one identity whichever of its weights are asked for.
        """
        if not self.files:
            yield self.identity, {name: name for name in self.names}
        for path in sorted({path for path, _ in self.files.values()}):
            keys = {name: key for name, (held_in, key) in self.files.items() if held_in == path}
            yield identity_of("file", str(self.dtype), _identify(path)), keys

    @property
    def kind(self) -> str:
        """What they are weights of, for people to read."""
        return type(self.model).__name__

    def shape(self, name: str) -> tuple[int, int]:
        """[out, in] of a module's weight."""
        module = self.model.get_submodule(name)
        return module.out_features, module.in_features

    def weight(self, name: str) -> Tensor:
        """Weight [out, in] of a module at the published precision."""
        if self.files:
            path, key = self.files[name]
            with opened(path) as file:
                tensor = file.get_tensor(key)
        else:
            tensor = loaded_weight(self.model.get_submodule(name))
        return tensor if self.dtype is None else tensor.to(self.dtype)

    def fingerprint(self) -> str:
        """Hash (hex, 128 bits) over name, shape and values of the weights."""
        digest = hashlib.sha256()
        for name in self.names:
            weight, plain = self.weight(name), name.removeprefix("text_model.")
            digest.update(f"{plain}|{tuple(weight.shape)}|{weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()[:32]


def find_source(
    model: nn.Module, names: Iterable[str], dtype: str | None, folder: str | None = None
) -> Source:
    """The published weights of the named modules: the model's own files, else what is loaded.

    folder: takes the files that lie there, whatever was loaded; ValueError where they do not hold
    all of the weights.
    """
    names = tuple(sorted(names))
    key = "source", id(model), names, dtype, folder
    return remembered(key, lambda: _find_source(model, names, dtype, folder))


def _find_source(
    model: nn.Module, names: tuple[str, ...], dtype: str | None, folder: str | None
) -> Source:
    precision = None if dtype is None else getattr(torch, dtype)
    origin = folder or (_origin(model) if dtype else None)
    found = _file_sets(Path(origin), names) if origin else iter(())
    files = next((held for held in found if folder or _were_loaded(model, held)), {})
    if folder and not files:
        raise ValueError(
            f"{folder} holds no safetensors files with all the projections of "
            f"{type(model).__name__}; name the folder of a base of the same family."
        )
    if files:
        paths = sorted({path for path, _ in files.values()})
        identity = identity_of("files", dtype, names, [_identify(path) for path in paths])
        return Source(names, identity, precision, files, model)
    source = Source(names, "", precision, {}, model)
    return Source(names, identity_of("memory", source.fingerprint()), precision, {}, model)


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Within it, weights are looked for and bases read once: for a time in which none changes."""
    token = _REMEMBERED.set({} if (held := _REMEMBERED.get()) is None else held)
    try:
        yield
    finally:
        _REMEMBERED.reset(token)


def remembered(key: Hashable, find: Callable[[], T]) -> T:
    """What is found; within `remembering`, what was found for this key before."""
    held = _REMEMBERED.get()
    if held is None:
        return find()
    if key not in held:
        held[key] = find()
    return held[key]


def identity_of(*parts: object) -> str:
    """A hash of what identifies something."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file of a base; ValueError where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{path} of the base cannot be read ({error}); copy or download the base again."
        ) from error


def _origin(model: nn.Module) -> str | None:
    """The folder that diffusers or transformers loaded the model from, if it was one."""
    config = getattr(model, "config", None)
    origin = getattr(config, "_name_or_path", None) or getattr(model, "name_or_path", None)
    return origin if origin and Path(origin).is_dir() else None


def _file_sets(folder: Path, names: tuple[str, ...]) -> Iterator[dict[str, tuple[Path, str]]]:
    """Module name -> (safetensors file, tensor name), of each variant that has all modules; the one
    without a variant's name first.
    """
    held: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with opened(path) as file:
            keys = held.setdefault(SHARD.sub("", path.name), {})
            keys.update((key, path) for key in file.keys())  # noqa: SIM118, not a dict
    variants = [held[name] for name in sorted(held, key=lambda name: (len(name), name))]
    every = {key: path for variant in reversed(variants) for key, path in variant.items()}
    for keys in (*variants, every):
        if files := _locate(keys, names):
            yield files


def _locate(held: Mapping[str, Path], names: tuple[str, ...]) -> dict[str, tuple[Path, str]]:
    """Module name -> (file, tensor name); empty when any of them cannot be found."""
    files = {}
    for name in names:
        plain = name.removeprefix("text_model.")
        keys = [f"{n}.weight" for n in (name, plain, f"text_model.{plain}")]
        key = next((key for key in keys if key in held), None)
        if key is None:
            return {}
        files[name] = (held[key], key)
    return files


def _were_loaded(model: nn.Module, files: Mapping[str, tuple[Path, str]]) -> bool:
    """Whether a sample of each loaded weight has the values of the file, but for rounding.

    Not compared are weights that are in no state to be: quantised, elsewhere, or with an adapter of
    another kind merged into them.
    """
    loaded, stored = [], []
    for path in sorted({path for path, _ in files.values()}):
        with opened(path) as file:
            for name, (held_in, key) in files.items():
                weight = comparable(model.get_submodule(name)) if held_in == path else None
                if weight is not None:
                    loaded.append(sample(weight))
                    stored.append(sample(file.get_tensor(key)))
    if [sample.shape for sample in loaded] != [sample.shape for sample in stored]:
        return False
    return not loaded or agree(loaded, stored)


def _identify(path: Path) -> str:
    """What tells one file's contents from another's without reading all of it."""
    path = path.resolve()
    stat = path.stat()
    digest = hashlib.sha256(f"{path}|{stat.st_size}|{stat.st_mtime_ns}".encode())
    with path.open("rb") as file:
        for i in range(SAMPLES):
            file.seek(i * max(1, stat.st_size // SAMPLES))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
