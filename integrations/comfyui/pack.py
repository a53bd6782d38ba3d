"""Make the folder that is published: the node, and in `vendor` what it needs of svfit_diffusion.

    python integrations/comfyui/pack.py dist/comfyui-svfit

The rooms are copied from this repository each time, so that there is one source of them. What the
package does when it is imported (its public names, telling peft of the method) is left out.
"""

from __future__ import annotations

import shutil
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "svfit_diffusion"
ROOMS = ("adapter", "concept", "pipeline", "settings")
TOP = '"""The rooms of svfit-diffusion that the node uses."""\n\n__version__ = "{}"\n'
IGNORED = shutil.ignore_patterns("__pycache__", "vendor", "pack.py", "examples.py")


def pack(folder: Path) -> Path:
    """The folder with everything that is published; ValueError where there is one already."""
    if folder.exists():
        raise ValueError(f"{folder} is there already; remove it, or name another folder.")
    shutil.copytree(HERE, folder, ignore=IGNORED)
    inside = folder / "vendor" / PACKAGE.name
    for room in ROOMS:
        shutil.copytree(PACKAGE / room, inside / room, ignore=IGNORED)
    shutil.copy(PACKAGE / "_lazy.py", inside / "_lazy.py")
    version = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["version"]
    (inside / "__init__.py").write_text(TOP.format(version))
    shutil.copy(PACKAGE.parent / "LICENSE", folder / "LICENSE")
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name the folder to make: python integrations/comfyui/pack.py FOLDER")
    try:
        print(pack(Path(sys.argv[1])))
    except ValueError as error:
        sys.exit(str(error))
