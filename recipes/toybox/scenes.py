"""Backgrounds of Toybox's world: plain colours, stripes, dots, gradients and six simple scenes.

Every painter takes a numpy Generator and returns a float array (128, 128, 3) in 0..255.
"""

from __future__ import annotations

import numpy as np

SIDE = 128
COLOURS = {
    "red": (214, 48, 49), "orange": (243, 146, 45), "yellow": (250, 215, 70),
    "green": (58, 160, 75), "blue": (52, 104, 214), "purple": (128, 70, 180),
    "pink": (245, 150, 190), "brown": (125, 80, 45), "black": (22, 22, 24),
    "white": (250, 250, 250), "gray": (140, 142, 145), "teal": (0, 140, 140),
    "navy": (22, 36, 92), "beige": (232, 214, 180),
}  # fmt: skip
SCENES = ("beach", "grass", "snow", "night", "sea", "sunset")
PATTERNS = ("stripes", "dots", "gradient")
ROWS, COLUMNS = (grid.astype(np.float32) for grid in np.mgrid[0:SIDE, 0:SIDE])


def colour(rng: np.random.Generator, name: str, spread: float = 4.0) -> np.ndarray:
    """A named colour, slightly off."""
    return np.clip(np.array(COLOURS[name]) + rng.normal(0, spread, 3), 0, 255).astype(np.float32)


def two_colours(rng: np.random.Generator) -> tuple[str, str]:
    """Two names whose colours are easy to tell apart."""
    names = list(COLOURS)
    while True:
        first, second = rng.choice(names, 2, replace=False)
        gap = np.abs(np.subtract(COLOURS[first], COLOURS[second])).sum()
        if gap > 150:
            return str(first), str(second)


def vertical(stops: list[tuple[float, tuple]]) -> np.ndarray:
    """A vertical blend through (height in 0..1, colour) stops."""
    heights = [height * (SIDE - 1) for height, _ in stops]
    colours = np.array([c for _, c in stops], np.float32)
    channels = [np.interp(np.arange(SIDE), heights, colours[:, i]) for i in range(3)]
    return np.repeat(np.stack(channels, -1)[:, None], SIDE, 1).astype(np.float32)


def blend(picture: np.ndarray, mask: np.ndarray, paint) -> np.ndarray:
    """Lay a colour or picture over another; mask (128, 128) in 0..1."""
    mask = np.clip(mask, 0, 1)[..., None]
    return picture * (1 - mask) + np.asarray(paint, np.float32) * mask


def disc(row: float, column: float, radius: float) -> np.ndarray:
    """Soft-edged disc mask."""
    return radius + 0.5 - np.hypot(ROWS - row, COLUMNS - column)


def hill(rng: np.random.Generator, horizon: float, height: float) -> np.ndarray:
    """Mask of everything below a gently waving horizon (px)."""
    phase, length = rng.uniform(0, 6.28), rng.uniform(60, 140)
    return ROWS - horizon + height * np.sin(COLUMNS / length * 6.28 + phase)


def plain(rng, name):
    return np.broadcast_to(colour(rng, name), (SIDE, SIDE, 3)).copy()


def stripes(rng, first, second):
    angle = rng.choice([0.0, np.pi / 2, np.pi / 4, -np.pi / 4])
    width = rng.uniform(10, 18)
    along = np.cos(angle) * COLUMNS + np.sin(angle) * ROWS + rng.uniform(0, 40)
    mask = np.clip(np.abs((along / width) % 2 - 1) * width - width / 2 + 0.5, 0, 1)
    return blend(plain(rng, first), mask, colour(rng, second))


def dots(rng, first, second):
    step = rng.uniform(18, 28)
    shift = rng.uniform(0, step, 2)
    odd = (ROWS + shift[0]) // step % 2
    row = (ROWS + shift[0]) % step - step / 2
    column = (COLUMNS + shift[1] + odd * step / 2) % step - step / 2
    mask = step * 0.28 + 0.5 - np.hypot(row, column)
    return blend(plain(rng, first), mask, colour(rng, second))


def gradient(rng, first, second):
    return vertical([(0.05, colour(rng, first)), (0.95, colour(rng, second))])


def clouds(rng, picture, rows=(8, 36)):
    for _ in range(rng.integers(0, 3)):
        row, column = rng.uniform(*rows), rng.uniform(0, SIDE)
        for _ in range(3):
            r, c = row + rng.uniform(-3, 3), column + rng.uniform(-14, 14)
            picture = blend(picture, disc(r, c, rng.uniform(5, 9)) / 3, (255, 255, 255))
    return picture


def beach(rng):
    horizon, shore = rng.uniform(44, 56), rng.uniform(72, 84)
    picture = clouds(rng, vertical([(0, (110, 190, 245)), (0.45, (205, 235, 252))]))
    picture = blend(picture, ROWS - horizon, (40, 160, 200))
    wave = 2.5 * np.sin(COLUMNS / rng.uniform(7, 12) + rng.uniform(0, 6))
    picture = blend(picture, ROWS - shore + wave + 4, (245, 252, 255))
    return blend(picture, ROWS - shore + wave, (240, 214, 150))


def grass(rng):
    picture = clouds(rng, vertical([(0, (120, 195, 250)), (0.5, (215, 240, 252))]))
    horizon = rng.uniform(54, 74)
    picture = blend(picture, hill(rng, horizon, 5), (126, 200, 80))
    picture = blend(picture, hill(rng, horizon + 20, 4), (98, 178, 62))
    rows, columns = rng.uniform(horizon + 8, 126, 14), rng.uniform(0, SIDE, 14)
    for row, column in zip(rows, columns, strict=True):
        blade = (np.abs(COLUMNS - column) < 1) & (np.abs(ROWS - row) < 4)
        picture[blade] = (70, 145, 50)
    return picture


def snow(rng):
    picture = vertical([(0, (150, 185, 215)), (0.6, (205, 222, 236))])
    horizon = rng.uniform(66, 84)
    picture = blend(picture, hill(rng, horizon, 5), (238, 244, 250))
    for _ in range(28):
        row, column = rng.uniform(0, SIDE, 2)
        picture = blend(picture, disc(row, column, rng.uniform(1, 2.2)), (255, 255, 255))
    return picture


def night(rng):
    picture = vertical([(0, (12, 14, 44)), (1, (38, 44, 96))])
    for _ in range(22):
        row, column = rng.uniform(0, 84), rng.uniform(0, SIDE)
        picture = blend(picture, disc(row, column, rng.uniform(0.4, 1.3)), (255, 250, 215))
    row, column = rng.uniform(16, 30), rng.choice([rng.uniform(14, 40), rng.uniform(90, 114)])
    picture = blend(picture, disc(row, column, 10), (250, 240, 190))
    picture = blend(picture, disc(row - 3, column + 5, 9), (18, 20, 54))
    return blend(picture, hill(rng, rng.uniform(96, 108), 4), (16, 26, 34))


def sea(rng):
    horizon = rng.uniform(36, 52)
    picture = clouds(rng, vertical([(0, (135, 205, 250)), (0.4, (220, 242, 252))]), (8, 26))
    water = vertical([(0.3, (46, 140, 205)), (1, (14, 70, 140))])
    picture = blend(picture, ROWS - horizon, water)
    phase = rng.uniform(0, 6)
    for row in np.arange(horizon + 8, SIDE, 13):
        wave = row + 2.2 * np.sin(COLUMNS / rng.uniform(5, 8) + phase + row)
        picture = blend(picture, (1.4 - np.abs(ROWS - wave)) * 0.7, (190, 225, 245))
    return picture


def sunset(rng):
    picture = vertical([(0, (92, 52, 130)), (0.35, (232, 92, 92)), (0.62, (255, 190, 90))])
    horizon, column = rng.uniform(78, 90), rng.uniform(24, 104)
    picture = blend(picture, disc(horizon - 4, column, rng.uniform(13, 18)), (255, 240, 160))
    return blend(picture, hill(rng, horizon, 3), (70, 36, 62))


PAINTERS = {"plain": plain, "stripes": stripes, "dots": dots, "gradient": gradient}
SCENE_PAINTERS = {
    "beach": beach, "grass": grass, "snow": snow, "night": night, "sea": sea, "sunset": sunset,
}  # fmt: skip


def paint(rng: np.random.Generator, kind: str, colours: tuple[str, ...]) -> np.ndarray:
    """Paint a background of a kind; colours: one name for plain, two for patterns, none else."""
    if kind in SCENE_PAINTERS:
        return SCENE_PAINTERS[kind](rng)
    return PAINTERS[kind](rng, *colours)
