"""web.studio.xy_grid: each cell differs from its neighbours by the axes, and by nothing else."""

import pytest

from svfit_diffusion.web.studio.xy_grid import BASE, Axis, Grid, parse_axis, strengths


@pytest.fixture
def cards(workspace):
    return [workspace.library.get(name).card for name in ("rex", "max")]


def test_a_cell_has_the_values_of_its_column_and_row(cards):
    grid = Grid(Axis("seed", (3, 4)), Axis("strength", (0.5, 1.0)), cards[:1], "a {}", 9)
    cells = grid.cells()
    assert [(job.seed, job.concepts[0][1]) for job, _ in cells] == [
        (3, 0.5), (4, 0.5), (3, 1.0), (4, 1.0)]  # fmt: skip
    assert {job.prompt for job, _ in cells} == {"a sks dog"}
    assert cells[1][1] == "seed 4, strength 0.5"
    steps = Grid(Axis("steps", (5,)), Axis("prompt", ("x {}", "y")), cards[:1], "a {}", 9, {"w": 1})
    first, second = (job for job, _ in steps.cells())
    assert (first.prompt, second.prompt, first.seed) == ("x sks dog", "y", 9)
    assert first.options == {"w": 1, "steps": 5}


def test_the_base_alone_is_asked_for_the_class_word(cards):
    axis = parse_axis("concept", "", ["rex", "max"])
    assert axis.values == (BASE, "rex", "max")
    base, rex, _ = (job for job, _ in Grid(axis, None, cards, "a photo of {}").cells())
    assert (base.concepts, base.prompt) == ([], "a photo of a dog")
    assert rex.concepts == [(cards[0], 1.0)] and rex.prompt == "a photo of sks dog"
    together = Grid(Axis("seed", (1,)), None, cards, "{}").cells()[0][0]
    assert together.prompt == "sks dog and zwx dog"


def test_the_usual_grid_is_strengths_or_concepts_side_by_side(cards):
    assert len(strengths(cards[:1], "{}", 0, {}).cells()) == 7
    assert len(strengths(cards, "{}", 0, {}).cells()) == 6


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("strength", "0, 2", "“2” is no value of strength: expected numbers from 0 to 1.5"),
        ("seed", "1.5", "no value of seed"),
        ("steps", "", "has 0 values"),
        ("guidance", "nan", "no value of guidance"),
        ("prompt", "|".join("x" * 9), "has 9 values"),
    ],
)
def test_values_that_cannot_be_used_are_named(name, text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_axis(name, text)


def test_a_grid_that_is_too_large_is_refused(cards):
    axes = Axis("seed", tuple(range(8))), Axis("steps", tuple(range(1, 8)))
    with pytest.raises(ValueError, match="48 pictures at most"):
        Grid(*axes, cards, "{}").cells()
