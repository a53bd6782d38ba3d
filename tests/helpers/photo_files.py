"""Pictures of four colours, written as each kind of file, and compared with what is read."""

from pathlib import Path

import numpy as np
from PIL import Image

from svfit_diffusion.data.reading import read_photo

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(width: int = 32, height: int = 16) -> Image.Image:
    """Red and green above, blue and white below: every rotation and mirror image differs."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height // 2))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(WHITE, (width // 2, height // 2, width, height))
    return picture


def difference(image: Image.Image, expected) -> int:
    assert image.mode == "RGB"
    return np.abs(np.asarray(image).astype(int) - np.asarray(expected).astype(int)).max()


def shows(path: Path, expected, within: int = 0) -> None:
    image = read_photo(path).image
    assert difference(image, expected) <= within
    assert image.info == {}
