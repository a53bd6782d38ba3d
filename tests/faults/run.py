"""Put each fault in, one at a time, and see its test go red: `make faults`.

A fault is a patch in this folder. Its first lines say which test must fail and what is wrong:

    test: tests/concept/test_atomic.py::test_a_failure_leaves_the_good_file_and_nothing_beside_it
    fault: a file is written in place

and a unified diff follows. The patches are put into a copy of the tree. Without any of them the
tests must pass; with one, its test must fail. Needs git, a system that can fork, and the packages
that the tests need.

    python tests/faults/run.py [--list] [--green] [NAME ...]
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT = 1800  # seconds that the tests may take
HEAVY = {
    "diffusers": ("AutoencoderKL", "StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    "transformers": ("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer"),
}


@dataclass(frozen=True)
class Fault:
    """A patch: its file, the test that must go red, and what is wrong, in a sentence."""

    path: Path
    test: str
    sentence: str


def read_faults(folder: Path = HERE) -> list[Fault]:
    """The faults of a folder, by name. ValueError for a patch without its two lines."""
    faults = []
    for path in sorted(folder.glob("*.patch")):
        head = path.read_text(encoding="utf-8").partition("\n--- ")[0]
        said = dict(re.findall(r"^(test|fault): (.+)$", head, re.MULTILINE))
        if set(said) != {"test", "fault"}:
            raise ValueError(f"{path.name} lacks a line 'test: ...' or 'fault: ...' at its start.")
        faults.append(Fault(path, said["test"].strip(), said["fault"].strip()))
    return faults


def apply(tree: Path, fault: Fault, *options: str) -> str:
    """Apply a patch to a tree; returns what git says where it does not fit, else ""."""
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}
    environment.pop("GIT_DIR", None)
    command = ["git", "apply", *options, str(fault.path)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env=environment)
    return (done.stderr.strip() or "git apply failed") if done.returncode else ""


def copy_tree(target: Path) -> None:
    """Copy the files that git knows, or would add."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def warm_up() -> None:
    """Import what is large and not ours once; each test process is forked from here."""
    for name in ("accelerate", "numpy", "peft", "PIL.Image", "pytest", "torch"):
        importlib.import_module(name)
    for library, names in HEAVY.items():
        module = importlib.import_module(library)
        for name in names:
            getattr(module, name)


def pytest(tree: Path, *tests: str) -> tuple[str, str]:
    """Run tests of a tree; "green", "red" or what else came of it, and the end of the output."""
    with tempfile.TemporaryFile() as log:
        if (pid := os.fork()) == 0:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            os._exit(_tested(tree, tests))
        deadline, done = time.monotonic() + LIMIT, (0, 0)
        while not done[0] and time.monotonic() < deadline:
            time.sleep(0.2)
            done = os.waitpid(pid, os.WNOHANG)
        if not done[0]:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return "out of time", ""
        log.seek(0)
        said = log.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(done[1])
    if status == 0:
        return ("green" if re.search(r"\d+ passed", said) else "skipped"), said[-4000:]
    failed = re.search(r"\d+ failed", said) and not re.search(r"\d+ error", said)
    return ("red" if status == 1 and failed else "broken"), said[-4000:]


def _tested(tree: Path, tests: tuple[str, ...]) -> int:
    """pytest's exit status for tests of a tree, in a process of its own."""
    import pytest

    os.setsid()
    os.chdir(tree)
    # Not a byte of the last fault may be left: Python tells old bytecode by seconds and size.
    os.environ.update(PYTHONPATH=str(tree), PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    sys.path[0] = str(tree)  # before the installed package
    status = int(pytest.main(["-q", "-m", "", "-p", "no:cacheprovider", *tests]))
    sys.stdout.flush()
    return status


def check(tree: Path, fault: Fault) -> bool:
    """Put a fault in, run its test, and take it out again; whether the test went red."""
    start = time.monotonic()
    if problem := apply(tree, fault):
        print(f"{fault.path.stem}: the patch does not apply any more: {problem}", flush=True)
        return False
    came, said = pytest(tree, fault.test)
    if problem := apply(tree, fault, "--reverse"):
        raise RuntimeError(f"{fault.path.name} cannot be taken out again: {problem}")
    took = time.monotonic() - start
    print(f"{fault.path.stem}: {came} in {took:.0f} s ({fault.sentence})", flush=True)
    if came != "red":
        print(f"  {fault.test} should have failed:\n{said}", flush=True)
    return came == "red"


def main(arguments: list[str] | None = None) -> int:
    """Run the named faults, or all; returns 0 where every one turned its test red."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to try (default: all)")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--green", action="store_true", help="run the tests without faults first")
    given = parser.parse_args(arguments)
    faults = read_faults()
    if unknown := sorted(set(given.names) - {fault.path.stem for fault in faults}):
        parser.error(f"there is no fault {unknown[0]!r}; --list names them")
    faults = [f for f in faults if f.path.stem in given.names or not given.names]
    if given.list:
        for fault in faults:
            print(f"{fault.path.stem}: {fault.sentence} -> {fault.test}")
        return 0
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "tree"
        copy_tree(tree)
        if given.green:
            came, said = pytest(tree, *dict.fromkeys(fault.test for fault in faults))
            print(f"without a fault: {came}", flush=True)
            if came != "green":
                print(said)
                return 1
        red = [check(tree, fault) for fault in faults]
    print(f"{sum(red)} of {len(red)} faults turned their tests red")
    return 0 if all(red) else 1


if __name__ == "__main__":
    sys.exit(main())
