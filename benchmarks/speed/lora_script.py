"""Run diffusers' `train_dreambooth_lora.py` unchanged, even if torchvision cannot be imported.

    python -m benchmarks.speed.lora_script PATH/train_dreambooth_lora.py --instance_data_dir ...

The script needs five transforms of torchvision, which are written with Pillow here, and its check
of diffusers' version is switched off.
"""

from __future__ import annotations

import enum
import random
import runpy
import sys
import types

import numpy as np
import torch
from PIL import Image


class InterpolationMode(enum.Enum):
    """Pillow's filters under torchvision's names."""

    BILINEAR = Image.Resampling.BILINEAR
    BICUBIC = Image.Resampling.BICUBIC
    LANCZOS = Image.Resampling.LANCZOS


def resize(size: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR):
    """Scale the shorter side to `size`."""

    def work(picture: Image.Image) -> Image.Image:
        scale = size / min(picture.size)
        sides = [round(side * scale) for side in picture.size]
        return picture.resize(sides, interpolation.value)

    return work


def crop(size: int, place):
    """Cut a square of `size`, at `place(room)` along each axis."""

    def work(picture: Image.Image) -> Image.Image:
        left, top = (place(side - size) for side in picture.size)
        return picture.crop((left, top, left + size, top + size))

    return work


def to_tensor():
    """(3, height, width) in 0..1."""
    return lambda picture: torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255


def stand_in() -> types.ModuleType:
    """A module with everything that the script uses of torchvision.transforms."""
    module = types.ModuleType("torchvision.transforms")
    module.InterpolationMode = InterpolationMode
    module.Resize = resize
    module.CenterCrop = lambda size: crop(size, lambda room: room // 2)
    module.RandomCrop = lambda size: crop(size, lambda room: random.randint(0, room))
    module.ToTensor = to_tensor
    module.Normalize = lambda mean, std: lambda tensor: (tensor - mean[0]) / std[0]
    module.Compose = lambda steps: lambda picture: _through(steps, picture)
    return module


def _through(steps, picture):
    for step in steps:
        picture = step(picture)
    return picture


def main() -> None:
    """Replace torchvision if needed, then run the script under its own name."""
    import diffusers.utils
    import transformers.utils

    transformers.utils.is_torchvision_available()  # cached before the replacement is installed
    diffusers.utils.check_min_version = lambda _: None
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        sys.modules["torchvision.transforms"] = stand_in()
        sys.modules["torchvision"] = types.ModuleType("torchvision")
        sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
