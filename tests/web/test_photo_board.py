"""web.page.photo_actions: what the board shows, and what it guesses on Toybox."""

import shutil
import types

import gradio as gr
import pytest

from svfit_diffusion import toybox
from svfit_diffusion.training.subject import sample_folder
from svfit_diffusion.web.page.photo_actions import PhotoActions
from svfit_diffusion.web.studio.familiarity import familiarity

PHOTOS = [str(path) for path in sorted(sample_folder().glob("*.png"))]


@pytest.fixture(scope="module")
def actions():
    """On Toybox itself."""
    pipe = toybox.load()
    pipeline = types.SimpleNamespace(
        defaults=types.SimpleNamespace(width=128),
        is_toybox=True,
        familiarity=lambda photos: familiarity(pipe, photos),
    )
    return PhotoActions(types.SimpleNamespace(pipeline=pipeline))


def captions(board):
    return [caption for _, caption in board["value"]]


def test_toybox_says_where_it_clearly_sees_it_and_leaves_captions_of_files(actions, tmp_path):
    third = str(shutil.copy(PHOTOS[2], tmp_path / "third.png"))
    (tmp_path / "third.txt").write_text("a drawing of sks robot")
    paths = [PHOTOS[0], PHOTOS[1], third, *PHOTOS[3:], str(tmp_path / "third.txt")]
    (verdict, first), (_, guesses) = actions.check(paths, {})
    assert "knows such things" in verdict and first == gr.skip()
    assert guesses == {
        PHOTOS[1]: "a photo of {} on a beige background",
        PHOTOS[3]: "a photo of {} on a teal background",
    }
    board, owners, *_ = actions.show(paths, False, {}, guesses)
    wanted = ["1", "2 on a beige background", "3 a drawing of sks robot", "4 on a teal background"]
    assert captions(board) == [*wanted, "5"] and owners == paths[:5]


def test_a_guess_that_comes_late_leaves_what_is_being_written(actions):
    guesses = {PHOTOS[1]: "a photo of {} on a beige background"}
    given = PHOTOS, False, {}, guesses, PHOTOS[1]
    assert actions.show_guesses(*given, "")[-1] == guesses[PHOTOS[1]]
    assert actions.show_guesses(*given, "a photo")[-1] == gr.skip()
    emptied = PHOTOS, False, {PHOTOS[1]: {"caption": ""}}, guesses, PHOTOS[1]
    board, *_, caption = actions.show_guesses(*emptied, "")
    assert caption == gr.skip() and captions(board)[1] == "2"


def test_only_photos_of_the_form_are_opened_and_one_can_be_left_out(actions):
    assert actions.preview(PHOTOS[:1], PHOTOS[1], {}) == ""
    assert "<img" in actions.preview(PHOTOS, PHOTOS[1], {PHOTOS[1]: {"zoom": 2}})
    assert actions.leave_out(PHOTOS, PHOTOS[4]) == PHOTOS[:4]
    event = types.SimpleNamespace(index=1)
    edits = {PHOTOS[1]: {"zoom": 2, "x": 1}}
    path, _, picture, caption, *numbers = actions.pick(PHOTOS, PHOTOS, edits, {}, event)
    assert (path, caption, numbers) == (PHOTOS[1], "", [2, 100, 50]) and "<img" in picture
