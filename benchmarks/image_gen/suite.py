"""PEFT's suite, as a checkout has it: found, made importable, and run on one experiment."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import runpy
import sys
from pathlib import Path

SUITE = Path("method_comparison", "image-gen")
EXPERIMENTS = Path(__file__).parent / "experiments"
PACKAGES, DEVICES = ("datasets", "torchvision"), ("cuda", "xpu")  # that it asks for
PLACES = "results", "temporary_results", "cancelled_results"  # where the suite puts a result


def enter(checkout: Path) -> Path:
    """Make a checkout's own peft and its suite importable here; returns the suite's folder.

    The suite asks the checkout's git which branch its peft is of, so an installed peft will not do.
    Raises ValueError when the folder is no checkout, or another peft was imported before.
    """
    checkout = checkout.resolve()
    suite = checkout / SUITE
    if not (suite / "run.py").is_file() or not (checkout / "src" / "peft").is_dir():
        raise ValueError(
            f"{checkout} has no {SUITE / 'run.py'} beside src/peft; pass a clone of "
            "https://github.com/huggingface/peft."
        )
    if "peft" in sys.modules:
        raise ValueError(
            f"peft was imported from {sys.modules['peft'].__file__} before the checkout's could "
            "be; start a new process."
        )
    sys.path[:0] = [str(suite), str(checkout / "src")]
    return suite


def check_python() -> None:
    """Raises ValueError when this Python is older than the suite needs."""
    if sys.version_info < (3, 12):
        raise ValueError(
            f"this is Python {'.'.join(map(str, sys.version_info[:2]))}, but PEFT's comparison "
            "needs 3.12 or later: on an older one it cannot save an adapter, and records no file "
            "size. Make an environment with a newer Python."
        )


def check_machine(suite: Path) -> None:
    """Raises ValueError where the suite's packages or a GPU are missing; after `enter`."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"PEFT's comparison needs {' and '.join(missing)}; run `pip install -r "
            f"{suite / 'requirements.txt'}`."
        )
    from peft.utils import infer_device

    if infer_device() not in DEVICES:
        raise ValueError(
            f"PEFT's comparison needs a GPU ({' or '.join(DEVICES)}), but torch finds "
            f"{infer_device()!r}; run it on a machine with one, with a torch that is built for it."
        )


def run_experiment(suite: Path, experiment: str, experiments: Path = EXPERIMENTS) -> Path:
    """Run the suite's run.py on an experiment, `method/name`; returns the file of its result.

    experiments: a folder named `experiments`. Raises ValueError when the suite cancelled the run.
    """
    import svfit_diffusion.adapter.tuner  # noqa: F401 (PEFT knows SVFIT from here on)

    before = _results(suite)
    arguments, sys.argv = sys.argv, ["run.py", "-v", str(Path("experiments", experiment))]
    try:
        with contextlib.chdir(experiments.resolve().parent):  # it takes no other path than this
            runpy.run_path(str(suite / "run.py"), run_name="__main__")
    finally:
        sys.argv = arguments
    changed = [path for path, time in _results(suite).items() if before.get(path) != time]
    if len(changed) != 1:
        raise ValueError(
            f"{suite} has {len(changed)} new results after the run, but one was expected; see "
            "what it printed above."
        )
    found = json.loads(changed[0].read_text(encoding="utf-8"))
    if found["train_info"]["status"] != "success":
        raise ValueError(
            f"PEFT's suite cancelled the run: {found['run_info']['error_msg']} (recorded in "
            f"{changed[0]})."
        )
    return changed[0]


def _results(suite: Path) -> dict[Path, int]:
    """File -> when it was last written, in nanoseconds."""
    files = (path for place in PLACES for path in (suite / place).glob("*.json"))
    return {path: path.stat().st_mtime_ns for path in files}
