"""web.studio.history: every picture is kept, by every window, until it is deleted."""

import time
import zipfile

import pytest
from PIL import Image

from svfit_diffusion.generation.pictures import Parameters
from svfit_diffusion.web.studio.history import SHOWN, History


@pytest.fixture
def history(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    return History(tmp_path)


def add(history, seed, prompt="a dog"):
    return history.add(Image.new("RGB", (8, 8), (seed % 256, 0, 0)), Parameters(prompt, seed=seed))


def test_the_newest_pictures_come_first_with_what_made_them(history, tmp_path):
    paths = [add(history, seed) for seed in range(SHOWN + 2)]
    again = History(tmp_path).last()
    assert [found.parameters.seed for found in again] == list(range(SHOWN + 1, 1, -1))
    assert again[0].path == paths[-1] and again[0].caption == f"a dog · seed {SHOWN + 1}"


def test_what_is_deleted_is_gone_and_nothing_else(history):
    first, second = add(history, 1), add(history, 2)
    version = history.version()
    history.delete(first.name)
    assert [found.path for found in history.last()] == [second] and history.version() != version
    for name in (first.name, "../.salt", "/etc/hostname", ""):
        with pytest.raises(ValueError, match="no picture"):
            history.delete(name)


def test_all_pictures_are_packed_as_they_are(history):
    with pytest.raises(ValueError, match="no pictures yet"):
        history.archive()
    paths = [add(history, seed) for seed in (5, 6)]
    with zipfile.ZipFile(history.archive()) as archive:
        assert [archive.read(path.name) for path in paths] == [path.read_bytes() for path in paths]


def test_a_foreign_file_in_the_folder_is_shown_without_parameters(history):
    (history.folder / "holiday.png").write_bytes(b"no picture")
    (found,) = history.last()
    assert found.parameters is None and found.caption == "holiday.png" and found.made == ""


def test_a_picture_says_when_it_was_made(history):
    before = time.time()
    made = time.mktime(time.strptime(history.get(add(history, 1).name).made, "%Y-%m-%d %H:%M"))
    assert before - 60 < made <= time.time()
