"""Writes requirements/*.txt: every package that pip may install here, one version, by its hashes.

    python requirements/lock.py        # needs uv: pip install uv

Versions come from pyproject.toml within constraints.txt. torch alone has no hash: it is another
file on each kind of machine (CPU, CUDA, ROCm), so it is installed by its version, after all else;
what it needs besides CUDA is in the lists. They name no registry: pip asks the one it is set to.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
EXTRAS = {"demo": ("app", "train"), "test": ("test",)}
EXTRAS |= {extra: ("test", extra) for extra in ("bench", "browser", "docs")}
TORCH = (
    *("filelock", "typing-extensions>=4.10.0", "setuptools>=77.0.3", "sympy>=1.13.3"),
    *("networkx>=2.5.1", "jinja2", "fsspec>=0.8.5"),
)
HEAD = """\
# Made by `python requirements/lock.py`; change pyproject.toml or constraints.txt, not this file.
"""


def torch_pin() -> str:
    """torch's version, as constraints.txt states it."""
    lines = (HERE.parent / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("torch=="))


def lock(name: str, extras: tuple[str, ...], settings: Path) -> None:
    """Write requirements/<name>.txt, for Python 3.11 to 3.13 on every platform."""
    command = [
        *("uv", "pip", "compile", "pyproject.toml", "--config-file", str(settings), "--quiet"),
        *("--constraints", "constraints.txt", "--universal", "--python-version", "3.11"),
        *("--generate-hashes", "--no-emit-package", "torch", "--no-header", "--no-annotate"),
        *("--no-emit-index-url", "--no-emit-find-links"),
        *(option for extra in extras for option in ("--extra", extra)),
    ]
    run = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    lines = [line for line in run.stdout.splitlines() if not line.startswith("#")]
    (HERE / f"{name}.txt").write_text(HEAD + "\n".join(lines) + "\n")


def main() -> int:
    """Write all lists."""
    needs = ", ".join(f'"{need}"' for need in TORCH)
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder, "uv.toml")
        settings.write_text(
            f'[[dependency-metadata]]\nname = "torch"\nversion = "{torch_pin()}"\n'
            f"requires-dist = [{needs}]\n"
        )
        for name, extras in EXTRAS.items():
            lock(name, extras, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
