"""Bytes of a concept file for each base, by rank: true configurations, no weights needed.

Toybox, and the bases of table.py, with a learned word if the family can learn one. The ranks are
without a common vector, and with a word of one row.

    python -m benchmarks.families.file_sizes
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.families.table import BASES, write
from svfit_diffusion.pipeline.concept_size import estimate_size
from svfit_diffusion.settings import TrainConfig

COLUMNS = {"default": TrainConfig()} | {
    f"rank {rank}": TrainConfig(rank=rank, common_size=0, num_vectors=1)
    for rank in ("4", "16", "64", "full")
}


def main() -> None:
    """Print the table."""
    print("| base | projections | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    root = Path(tempfile.mkdtemp())
    folders = {name: str(write(name, root / name.lower().replace(" ", "-"))) for name in BASES}
    for name, folder in {"Toybox": "toybox", **folders}.items():
        plans = COLUMNS.values()
        found = [estimate_size(folder, plan) for plan in plans]
        projections = sum(found[0].projections.values())
        print(f"| {name} | {projections} | " + " | ".join(f"{f.bytes:,}" for f in found) + " |")


if __name__ == "__main__":
    main()
