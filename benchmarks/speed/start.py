"""Claims on starting: `svfit --help`, `svfit info`, the whole demo.

python -m benchmarks.speed --only start
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.speed.setup import Row, paired

SAMPLE = Path(__file__).parents[2] / "samples" / "robot" / "robot.safetensors"


def call(*command: str) -> None:
    """Run a command and discard its output."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def demo() -> Row:
    """`svfit demo` in an empty folder, without a cache, against the promised two minutes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [command(), "demo"], cwd=folder, check=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={"SVFIT_CACHE": folder, "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        spent = time.perf_counter() - start
    ratio = spent / 120
    return Row("whole demo after installs", "two minutes", spent, 120.0, ratio, ratio, ratio, 1.0)


def command() -> str:
    """The installed `svfit`."""
    return str(Path(sys.executable).with_name("svfit"))


def run(quick: bool) -> tuple[list[Row], dict]:
    """All rows."""
    rounds, against = (1 if quick else 9), "python -c pass"

    def nothing() -> None:
        call(sys.executable, "-c", "pass")

    rows = [
        paired(f"svfit {words[0]}", against, lambda words=words: call(command(), *words),
               nothing, 10.0, rounds)
        for words in (("--help",), ("info", str(SAMPLE)))
    ]  # fmt: skip
    return rows + ([] if quick else [demo()]), {}
