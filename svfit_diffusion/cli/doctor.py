"""`svfit doctor`: what this program finds on this machine, on one page, for a report.

Nothing personal is in it: paths below the home folder begin with `~`, others are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..settings import TrainConfig
from .terminal import quiet_libraries, shown

STEPS = 10  # of the training
LIBRARIES = (
    *("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "tokenizers"),
    *("huggingface_hub", "numpy", "scipy", "pillow", "gradio", "bitsandbytes", "torchao"),
)
FAILED = "FAILED: "
_FOLDERS = re.compile(r"(?:[A-Za-z]:|~)?[\\/]+(?:[^\s'\"\\/:;,]+[\\/]+)+")  # of a path in a text


def add_command(commands: Any) -> None:
    """Add `doctor` to the commands."""
    command = commands.add_parser(
        "doctor",
        help="say what is found on this machine, on one page for a report",
        description="Say what is found on this machine, check the sample concept, and train for "
        f"{STEPS} steps. Exit status 1 where a check fails. No personal path is shown.",
    )
    command.add_argument("--quick", action="store_true", help="leave out the training")
    command.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    quiet_libraries()
    checks = [_versions, _device, _linear_algebra, _cache, _hub, _bases, _self_check]
    failed = False
    with _without_remarks():
        for check in checks if arguments.quick else [*checks, _training]:
            for name, value in _lines(check):
                failed |= value.startswith(FAILED)
                print(f"{name:<12} {value}", flush=True)
    return int(failed)


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """No warnings, and of our messages errors alone: they may name folders, and what matters is on
    the page.
    """
    ours = logging.getLogger("svfit_diffusion")
    level = ours.level
    ours.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ours.setLevel(level)


def _lines(check: Callable[[], Iterator[tuple[str, str]]]) -> Iterator[tuple[str, str]]:
    """The lines of a check, and one for what it raises."""
    try:
        for name, value in check():
            yield name, shown(value)
    except Exception as error:  # the report is wanted most where something is broken
        reason = f"{type(error).__name__}: {error}"
        yield check.__name__.strip("_").replace("_", " "), shown(FAILED + without_folders(reason))


def without_folders(text: str) -> str:
    """A text with the names of files, but without the folders they are in."""
    return _FOLDERS.sub("…/", text.replace(str(Path.home()), "~"))


def place(path: Path, variable: str) -> str:
    """A folder for a report: below the home folder, or by the variable that names it."""
    try:
        return f"~/{path.expanduser().resolve().relative_to(Path.home().resolve()).as_posix()}"
    except ValueError:
        return f"${variable}" if os.environ.get(variable) else "outside of the home folder"


def _versions() -> Iterator[tuple[str, str]]:
    python = platform.python_version()
    yield "svfit", f"{__version__}, Python {python}, {platform.platform(terse=True)}"
    found = {name: _version(name) for name in LIBRARIES}
    yield "libraries", ", ".join(f"{name} {version}" for name, version in found.items() if version)
    if missing := [name for name, version in found.items() if not version]:
        yield "not here", ", ".join(missing)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _device() -> Iterator[tuple[str, str]]:
    import psutil
    import torch

    from ..generation import pick_device, pick_dtype, size_text

    device = pick_device()
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    dtype = str(pick_dtype(device) or "as published").removeprefix("torch.")
    yield "device", f"{device} ({name}), generates in {dtype}"
    memory = psutil.virtual_memory()
    free = [f"{size_text(memory.available)} of {size_text(memory.total)} free"]
    if device == "cuda":
        here, total = torch.cuda.mem_get_info()
        free.append(f"{size_text(here)} of {size_text(total)} free on the GPU")
    yield "memory", ", ".join(free)


def _linear_algebra() -> Iterator[tuple[str, str]]:
    import scipy.linalg  # noqa: F401, so that its library is loaded
    import torch
    from threadpoolctl import threadpool_info

    kind = torch.backends.cpu.get_cpu_capability()
    threads, cores = torch.get_num_threads(), os.cpu_count()
    yield "processor", f"{cores} cores, torch uses {threads} threads and {kind}"
    for found in threadpool_info():
        if found["user_api"] == "blas":
            kernel = found.get("architecture", "kernel not known")
            yield (
                "BLAS",
                f"{found['internal_api']} {found['version']}, {kernel}, {found['num_threads']} "
                "threads",
            )


def _cache() -> Iterator[tuple[str, str]]:
    from ..adapter import cache_folder
    from ..generation import size_text

    folder = cache_folder()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        writable = "writable"
    yield "cache", f"{place(folder, 'SVFIT_CACHE')}, {size_text(size)}, {writable}"


def _hub() -> Iterator[tuple[str, str]]:
    from huggingface_hub import constants

    from ..families import reachable

    if constants.HF_HUB_OFFLINE:
        yield "Hub", "not asked: HF_HUB_OFFLINE is set"
    else:
        yield "Hub", "reachable" if reachable() else "not reachable: only what is here can be used"


def _bases() -> Iterator[tuple[str, str]]:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        repositories = ()
    bases = sorted(
        f"{found.repo_id} ({found.size_on_disk_str})"
        for found in repositories
        if any(
            file.file_name == "model_index.json" for rev in found.revisions for file in rev.files
        )
    )
    where = place(Path(constants.HF_HUB_CACHE), "HF_HUB_CACHE")
    yield "bases", f"{', '.join(bases) or 'none'} in {where}, and toybox"


def _self_check() -> Iterator[tuple[str, str]]:
    """The sample in the basis found here: how far its edit is off."""
    from ..adapter import basis_deviation, check_table
    from ..concept import SELF_CHECK_TOLERANCE, read_concept
    from ..families import TOYBOX, load_base, recognise
    from ..pipeline import checked_bases
    from ..training import SAMPLE, sample_folder

    concept, pipe = (
        read_concept(sample_folder().parent / f"{SAMPLE}.safetensors"),
        load_base(TOYBOX),
    )
    plan, bases = checked_bases(pipe, recognise(pipe), concept)
    off = basis_deviation(concept, check_table(concept, plan, iter(bases)))
    yield "self-check", f"the sample's edit is off by {off:.1e}; allowed {SELF_CHECK_TOLERANCE:.0e}"


def _training() -> Iterator[tuple[str, str]]:
    from ..training import train

    times = [time.monotonic()]
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            output_dir=str(Path(folder, "sample")),
            max_train_steps=STEPS,
            caption_backgrounds=False,  # it takes longer than the steps
        )
        result = train(config, progress=False, report=lambda *_: times.append(time.monotonic()))
    if result.stopped:
        raise KeyboardInterrupt if result.exit_status == 130 else ValueError(result.stopped)
    steps = [later - earlier for earlier, later in zip(times[1:], times[2:], strict=False)]
    yield (
        "training",
        f"{STEPS} steps on the sample, {statistics.median(steps):.2f} s a step, "
        f"{times[1] - times[0]:.1f} s until the first; loss {result.loss_before:.4f} -> "
        f"{result.loss_after:.4f}",
    )
