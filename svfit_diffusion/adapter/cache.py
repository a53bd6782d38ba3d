"""A cache on disk of the bases of published weights (published.py).

An entry holds what is known of one weight file: the basis of each of its projections at the highest
rank that was asked for, whose first columns are the basis of any lower rank. It is keyed by the
file's identity (path, size, time of change, header and a sample of the contents), so a warm load
reads no more of the model than that. Weights without a file have an entry for each set of them.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..concept import atomic_write, remove_leftovers, replace_file
from .basis import Basis, Rank, parse_rank
from .factoring import Job, factorize_all
from .published import Source, find_source, identity_of, remembered

log = logging.getLogger(__name__)
VERSION = 3
DEFAULT_LIMIT = 2_000_000_000  # bytes of bases kept on disk, oldest used go first
IN_USE = 3_600.0  # seconds: what was used since then may be needed again by the same load
PATIENCE = 2.0  # seconds of waiting for another process, before it is said
PARTS = ("U", "s", "V", "groups")
ENERGIES = "energies"  # metadata: projection -> rule -> rank, which only the whole spectrum tells


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
            f"the basis is taken from {type(model).__name__} as it was loaded, because its {dtype} "
            "files were not found, and what was loaded is rounded; concepts then differ from those "
            "trained on the files. Load the base from its folder in bfloat16 or float32 to be "
            "exact.",
            stacklevel=2,
        )
    key = "bases", source.identity, tuple(sorted(ranks.items()))
    return remembered(key, lambda: bases_of(source, ranks))


def bases_of(source: Source, ranks: Mapping[str, Rank]) -> dict[str, Basis]:
    """The bases of weights of a source, from the cache or newly factored.

    ranks: name -> rank rule.
    """
    found = {}
    for identity, keys in source.entries():
        rules = {name: parse_rank(ranks[name]) for name in keys}
        found |= _bases_of(source, _entry("basis", ".safetensors", identity), keys, rules)
    return found


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


def _bases_of(
    source: Source, path: Path, keys: Mapping[str, str], rules: Mapping[str, Rank]
) -> dict[str, Basis]:
    """The bases of one entry: what is held, and what is missing factored and kept."""
    held = _read(path, keys, rules)
    if len(held) == len(rules):
        return held
    with _sole_writer(path, source.kind) as may_write:
        held |= _read(path, keys, rules)  # two processes that want one base factor it once
        missing = {name: rule for name, rule in rules.items() if name not in held}
        made = _factor(source, missing) if missing else {}
        if made and may_write:
            try:
                _write(path, keys, rules, made)
            except OSError as error:
                _not_cached(path, error)
    return held | made


@contextlib.contextmanager
def _sole_writer(path: Path, model: str) -> Iterator[bool]:
    """While no other process writes the entry; False where it cannot be written at all."""
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            log.warning("another process is computing the basis of this %s: waiting for it.", model)
            lock.acquire()
    except OSError as error:
        _not_cached(path, error)
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _not_cached(path: Path, error: OSError) -> None:
    reason = f"{path.parent} cannot be written ({error})"
    warnings.warn(f"bases are not cached, since {reason}.", stacklevel=4)


def _factor(source: Source, rules: Mapping[str, Rank]) -> dict[str, Basis]:
    jobs = []
    for name, rule in rules.items():
        label, read = f"{name} of {source.kind}", functools.partial(source.weight, name)
        jobs.append(Job(read, source.shape(name), rule, label))
    return dict(zip(rules, factorize_all(jobs), strict=True))


def _entry(kind: str, suffix: str, identity: str) -> Path:
    return cache_folder() / f"{kind}-{identity_of(VERSION, identity)[:40]}{suffix}"


def _read(path: Path, keys: Mapping[str, str], rules: Mapping[str, Rank]) -> dict[str, Basis]:
    """Module name -> basis, of those that an entry holds at the rank wanted, or at a higher one;
    none where it is missing or damaged.
    """
    found = {}
    try:
        with safe_open(path, framework="pt") as file:
            names, energies = set(file.keys()), _energies(file)
            for name, rule in rules.items():
                key = keys[name]
                if f"{key}.s" in names:
                    basis = Basis(*(file.get_tensor(f"{key}.{part}") for part in PARTS))
                    rank = _resolved(rule, basis, energies.get(key, {}))
                    if rank is not None and rank <= len(basis.s):
                        found[name] = basis.first(rank)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError):
        return {}
    with contextlib.suppress(OSError):  # a shared cache may be read-only
        os.utime(path)
    return found


def _energies(file: Any) -> dict[str, dict[str, int]]:
    """Projection -> rule -> rank, of an open entry."""
    return json.loads((file.metadata() or {}).get(ENERGIES, "{}"))


def _resolved(rule: Rank, basis: Basis, energies: Mapping[str, int]) -> int | None:
    """The number of values that a rule asks for; None where that is not known."""
    most = min(len(basis.U), len(basis.V))
    if rule == "full":
        return most
    return min(rule, most) if isinstance(rule, int) else energies.get(rule)


def _write(
    path: Path, keys: Mapping[str, str], rules: Mapping[str, Rank], made: Mapping[str, Basis]
) -> None:
    """Add bases to an entry, in the place of those of a lower rank."""
    tensors, energies = {}, {}
    damaged = OSError, SafetensorError, KeyError, TypeError, ValueError  # or missing
    with contextlib.suppress(*damaged), safe_open(path, framework="pt") as file:
        energies = _energies(file)
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for name, basis in made.items():
        key = keys[name]
        if isinstance(rules[name], str) and rules[name] != "full":
            energies.setdefault(key, {})[rules[name]] = len(basis.s)
        if f"{key}.s" not in tensors or len(tensors[f"{key}.s"]) < len(basis.s):
            tensors |= {f"{key}.{part}": getattr(basis, part) for part in PARTS}
    with atomic_write(path) as fresh:
        save_file(tensors, fresh, {ENERGIES: json.dumps(energies)})
    _evict(path.parent)


def _evict(folder: Path) -> None:
    """Delete the entries used longest ago until the folder keeps within its bound."""
    remove_leftovers(folder)
    limit, entries = _limit(), sorted(folder.glob("basis-*.safetensors"), key=_used)
    total = sum(p.stat().st_size for p in entries)
    for path in entries[:-1]:
        if total <= limit or _used(path) > time.time() - IN_USE:
            break
        total -= path.stat().st_size
        for old in (path, Path(f"{path}.lock")):
            old.unlink(missing_ok=True)


def _used(path: Path) -> float:
    """When an entry was last used, in seconds."""
    return path.stat().st_mtime


def _limit() -> int:
    """The bytes that the folder may hold."""
    given = os.environ.get("SVFIT_CACHE_LIMIT", "")
    if given and not given.isdecimal():
        log.warning(
            "SVFIT_CACHE_LIMIT is %r, but must be a number of bytes; it is not used.", given
        )
    return int(given) if given.isdecimal() else DEFAULT_LIMIT
