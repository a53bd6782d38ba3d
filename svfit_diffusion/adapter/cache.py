"""Where bases come from: the base's published weight files, and a cache of bases on disk.

A concept is a change in the basis of the *published* weight, so weights are read from the
checkpoint's file where there is one, not from the loaded and perhaps cast tensor, and rounded to
the precision the base is published in. A cache entry is keyed by the identity of those files (path,
size, time of change, header and a sample of the contents), so a warm load reads none of the model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..concept import atomic_write, remove_leftovers, replace_file
from .basis import Basis, Rank, factorize_all, parse_rank

VERSION = 2
DEFAULT_LIMIT = 2_000_000_000  # bytes of bases kept on disk, oldest used go first
SAMPLES, SAMPLE_BYTES = 64, 4096
PARTS = ("U", "s", "V", "groups")


def cache_folder() -> Path:
    """The folder of cached bases: $SVFIT_CACHE, else the user's cache folder."""
    return Path(os.environ.get("SVFIT_CACHE") or user_cache_path("svfit-diffusion") / "bases")


def load_bases(
    model: nn.Module, ranks: Mapping[str, Rank], dtype: str | None, folder: str | None = None
) -> dict[str, Basis]:
    """The bases of the named Linear modules of `model`, from the cache or newly factored.

    ranks: module name -> rank rule. dtype: the precision the base is published in, such as
    "float16"; None takes the weights as they are loaded. folder: where the safetensors files lie,
    if not where the model was loaded from; ValueError when they do not hold all the weights.
    """
    source = find_source(model, ranks, dtype, folder)
    if source.coarse:
        warnings.warn(
            f"the basis is taken from {type(model).__name__} as loaded in bfloat16, because its "
            f"{dtype} files were not found; concepts then differ slightly from those trained on "
            "the files. Load the base from its folder to be exact.",
            stacklevel=2,
        )
    return bases_of(source, ranks)


def bases_of(source: Source, ranks: Mapping[str, Rank]) -> dict[str, Basis]:
    """The bases of named weights of a source, from the cache or newly factored.

    ranks: name -> rank rule.
    """
    rules = {name: parse_rank(rank) for name, rank in ranks.items()}
    path = _entry("basis", ".safetensors", source.identity, sorted(rules.items()))
    if (bases := _read(path, rules)) is not None:
        return bases
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # two processes that want one base factor it once
            if (bases := _read(path, rules)) is None:
                bases = _factor(source, rules)
                _write(path, bases)
                _evict(path.parent)
            return bases
    except OSError as error:
        reason = f"{path.parent} cannot be written ({error})"
        warnings.warn(f"bases are not cached, since {reason}.", stacklevel=2)
        return _factor(source, rules)


def fingerprint(
    model: nn.Module, names: Iterable[str], dtype: str | None, folder: str | None = None
) -> str:
    """Hash (hex, 128 bits) over the published weights of the modules: name, shape, values."""
    source = find_source(model, names, dtype, folder)
    path = _entry("print", ".json", source.identity)
    try:
        return json.loads(path.read_text())["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        value = source.fingerprint()
    with contextlib.suppress(OSError):  # load_bases says so
        replace_file(path, json.dumps({"fingerprint": value}).encode())
    return value


@dataclass(frozen=True)
class Source:
    """The weights of some modules, readable one at a time, and what tells them from others."""

    names: tuple[str, ...]
    identity: str
    dtype: torch.dtype | None
    files: Mapping[str, tuple[Path, str]]  # module name -> (file, tensor name)
    model: nn.Module

    @property
    def coarse(self) -> bool:
        """Whether the weights are only there as a cast that lost what the files hold."""
        if self.files or self.dtype in (None, torch.bfloat16):
            return False
        first = loaded_weight(self.model.get_submodule(self.names[0]))
        return first.dtype == torch.bfloat16

    def weight(self, name: str) -> Tensor:
        """Weight [out, in] of a module at the published precision."""
        if self.files:
            path, key = self.files[name]
            with safe_open(path, framework="pt") as file:
                tensor = file.get_tensor(key)
        else:
            tensor = loaded_weight(self.model.get_submodule(name))
        return tensor if self.dtype is None else tensor.to(self.dtype)

    def fingerprint(self) -> str:
        return _hash_weights((name, self.weight(name)) for name in self.names)


def find_source(
    model: nn.Module, names: Iterable[str], dtype: str | None, folder: str | None = None
) -> Source:
    """The published weights of the named modules: the model's own files, else what is loaded."""
    names = tuple(sorted(names))
    precision = None if dtype is None else getattr(torch, dtype)
    origin = folder or (_origin(model) if dtype else None)
    files = _published_files(Path(origin), names) if origin else {}
    if folder and not files:
        raise ValueError(
            f"{folder} holds no safetensors files with all the projections of "
            f"{type(model).__name__}; name the folder of a base of the same family."
        )
    if files:
        identity = _hash(
            "files", dtype, names, [_identify(p) for p in sorted({p for p, _ in files.values()})]
        )
        return Source(names, identity, precision, files, model)
    source = Source(names, "", precision, {}, model)
    return Source(names, _hash("memory", source.fingerprint()), precision, {}, model)


def loaded_weight(module: nn.Module) -> Tensor:
    """Weight [out, in] of a Linear (below any adapter), dequantised where it is quantised."""
    from peft.utils import resolve_quantization_backend

    while hasattr(module, "base_layer"):
        if (kept := getattr(module, "kept_weight", None)) is not None:
            return kept.detach()  # a fused concept is no part of the base
        module = module.base_layer
    backend = resolve_quantization_backend(module, get_apply_tensor_subclass=lambda: None)
    return module.weight.detach() if backend is None else backend.get_base_weight(module).detach()


def _origin(model: nn.Module) -> str | None:
    """The folder that diffusers or transformers loaded the model from, if it was one."""
    config = getattr(model, "config", None)
    origin = getattr(config, "_name_or_path", None) or getattr(model, "name_or_path", None)
    return origin if origin and Path(origin).is_dir() else None


def _published_files(folder: Path, names: tuple[str, ...]) -> dict[str, tuple[Path, str]]:
    """Module name -> (safetensors file, tensor name); empty when any of them cannot be found."""
    held: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors"), key=lambda p: (-len(p.name), p.name)):
        with safe_open(path, framework="pt") as file:
            held.update((key, path) for key in file.keys())  # noqa: SIM118, not a dict
    files = {}
    for name in names:
        plain = name.removeprefix("text_model.")
        keys = [f"{n}.weight" for n in (name, plain, f"text_model.{plain}")]
        key = next((key for key in keys if key in held), None)
        if key is None:
            return {}
        files[name] = (held[key], key)
    return files


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


def _hash_weights(weights: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, weight in weights:
        name = name.removeprefix("text_model.")
        digest.update(f"{name}|{tuple(weight.shape)}|{weight.dtype}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()


def _entry(kind: str, suffix: str, *key: object) -> Path:
    return cache_folder() / f"{kind}-{_hash(*key)[:40]}{suffix}"


def _factor(source: Source, rules: Mapping[str, Rank]) -> dict[str, Basis]:
    names, model = sorted(rules), type(source.model).__name__
    jobs = ((source.weight(n), rules[n], f"{n} of {model}") for n in names)
    return dict(zip(names, factorize_all(jobs), strict=True))


def _read(path: Path, names: Iterable[str]) -> dict[str, Basis] | None:
    """A cache entry, or None when it is missing or damaged."""
    try:
        tensors = load_file(path)
        os.utime(path)
        return {n: Basis(*(tensors[f"{n}.{part}"] for part in PARTS)) for n in names}
    except (OSError, SafetensorError, KeyError):
        return None


def _write(path: Path, bases: Mapping[str, Basis]) -> None:
    tensors = {f"{n}.{part}": getattr(b, part) for n, b in bases.items() for part in PARTS}
    with atomic_write(path) as fresh:
        save_file(tensors, fresh)


def _evict(folder: Path) -> None:
    """Delete the entries used longest ago until the folder keeps within its bound."""
    remove_leftovers(folder)
    limit = int(os.environ.get("SVFIT_CACHE_LIMIT", DEFAULT_LIMIT))
    entries = sorted(folder.glob("basis-*.safetensors"), key=lambda p: p.stat().st_mtime)
    total = sum(p.stat().st_size for p in entries)
    for path in entries[:-1]:
        if total <= limit:
            break
        total -= path.stat().st_size
        for old in (path, Path(f"{path}.lock")):
            old.unlink(missing_ok=True)
