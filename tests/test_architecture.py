"""docs/architecture.md: its drawing is of today's imports, and the files it names exist."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()


@pytest.fixture(scope="module")
def draw():
    path = ROOT / "docs" / "draw_architecture.py"
    spec = importlib.util.spec_from_file_location("draw_architecture", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_drawing_and_the_table_are_current(draw):
    below, again = draw.arrows(), "run python docs/draw_architecture.py"
    assert draw.SVG.read_text() == draw.drawing(below), again
    assert draw.page(TEXT, below) == TEXT, again


def test_every_arrow_goes_down_and_every_way_is_drawn(draw):
    below = draw.arrows()
    drawn, corner = draw.shortest(below), draw.places(below)
    assert all(corner[name][1] < corner[other][1] for name in below for other in below[name])

    def reached(name):
        return drawn[name].union(*(reached(other) for other in drawn[name]))

    assert all(below[name] <= reached(name) for name in below)
    assert len(set(corner.values())) == len(corner)


def test_every_room_has_a_paragraph(draw):
    for name in draw.arrows():
        assert re.search(rf"`{name.replace('.', '/')}/?`", TEXT), name


def test_every_file_that_it_names_is_there():
    named = re.findall(r"`((?:\w+/)+\w+\.\w+)`", TEXT) + re.findall(r"`(\w+(?:/\w+)*/)`", TEXT)
    assert len(named) > 60
    for name in named:
        assert (ROOT / "svfit_diffusion" / name).exists() or (ROOT / name).exists(), name
