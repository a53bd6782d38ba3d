"""Make the folder that is published: the node, and in `vendor` what it needs of svfit_diffusion.

    python integrations/comfyui/pack.py dist/comfyui-svfit

The rooms are copied from this repository each time, so that there is one source of them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "svfit_diffusion"
ROOMS = ("adapter", "concept", "pipeline", "settings")
IGNORED = shutil.ignore_patterns("__pycache__", "vendor", "pack.py", "examples.py")


def pack(folder: Path) -> Path:
    """The folder with everything that is published; ValueError where there is one already."""
    if folder.exists():
        raise ValueError(f"{folder} is there already; remove it, or name another folder.")
    shutil.copytree(HERE, folder, ignore=IGNORED)
    inside = folder / "vendor" / PACKAGE.name
    for room in ROOMS:
        shutil.copytree(PACKAGE / room, inside / room, ignore=IGNORED)
    for file in ("__init__.py", "_lazy.py"):
        shutil.copy(PACKAGE / file, inside / file)
    shutil.copy(PACKAGE.parent / "LICENSE", folder / "LICENSE")
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name the folder to make: python integrations/comfyui/pack.py FOLDER")
    try:
        print(pack(Path(sys.argv[1])))
    except ValueError as error:
        sys.exit(str(error))
