"""PEFT's comparison of image generation where there is no GPU, no network and no Python 3.12.

    python image_gen.py CHECKOUT FOLDER EXPERIMENT [OUTPUT]

runs `benchmarks.image_gen` on the suite's own code. What stands in: the CPU for its accelerator,
with memory counters that say 0, and on Python 3.11 an option of tempfile that came with 3.12.
"""

import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

import helpers.torchvision_operators  # noqa: F401
from benchmarks.image_gen.suite import enter, run_experiment


class Folder(tempfile.TemporaryDirectory):
    """A temporary folder, always deleted; its `delete` is that of Python 3.12."""

    def __init__(self, *args, delete=True, **kwargs):
        super().__init__(*args, **kwargs)


def nothing(*_):
    return 0


def main(checkout, folder, experiment, output=""):
    """Prints the path of the result."""
    suite = enter(Path(checkout))
    if sys.version_info < (3, 12):
        tempfile.TemporaryDirectory = Folder
    counters = ("memory_allocated", "memory_reserved", "max_memory_reserved", "empty_cache")
    for name in (*counters, "reset_peak_memory_stats", "manual_seed_all"):
        setattr(torch.cpu, name, nothing)
    torch.cpu.get_device_name = lambda index: "CPU"
    with patch("peft.utils.infer_device", return_value="cuda"):  # utils.py refuses all others
        import utils
    utils.device = "cpu"
    if output:
        from benchmarks.image_gen.word import run_word

        return run_word(Path(folder) / experiment, Path(output))
    return run_experiment(suite, experiment, Path(folder))


if __name__ == "__main__":
    print("RESULT", main(*sys.argv[1:]))
