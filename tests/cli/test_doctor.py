"""cli.doctor: one page for a report, with nothing personal on it."""

import logging
import re
from pathlib import Path

import numpy
import pytest

from svfit_diffusion.cli.doctor import place, without_folders
from svfit_diffusion.cli.main import main


def lines(text):
    """The page by the names of its lines; of several with one name, the last."""
    return dict(re.split(r"\s+", line, maxsplit=1) for line in text.splitlines())


def test_the_page_says_what_is_here_and_how_fast_it_trains(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "a name" / "cache"))
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    found = lines(text)
    assert f"numpy {numpy.__version__}," in found["libraries"]
    assert found["cache"].startswith("$SVFIT_CACHE, ") and found["cache"].endswith("writable")
    assert "the sample's edit is off by " in text and "FAILED" not in text
    speed = re.search(r"10 steps on the sample, (\d+\.\d+) s a step", found["training"])
    assert 0 < float(speed[1]) < 60
    assert str(Path.home()) not in text and "a name" not in text


def test_what_fails_is_one_line_and_the_exit_status(capsys, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path / "cache"))
    assert main(["doctor", "--quick"]) == 1
    text = capsys.readouterr().out
    (failed,) = (line for line in text.splitlines() if "FAILED" in line)
    assert failed.startswith("cache ") and "…/cache" in failed and str(tmp_path) not in text
    assert "training" not in lines(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no file: '/home/ann/photos/rex.png'", "no file: '…/rex.png'"),
        (f"no file: {Path.home()}/Ann Lee.png", "no file: ~/Ann Lee.png"),
        (f"no file: {Path.home()}/photos/rex.png", "no file: …/rex.png"),
        (r"no file: C:\\Users\\ann\\rex.png", "no file: …/rex.png"),
        ("a LoRA of owner/name, 3/4", "a LoRA of owner/name, 3/4"),
        ("", ""),
    ],
)
def test_folders_are_left_out(text, shown):
    assert without_folders(text) == shown


def test_a_place_is_below_the_home_folder_or_a_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("SVFIT_CACHE", "set")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    assert place(tmp_path / "x" / "y", "SVFIT_CACHE") == "~/x/y"
    assert place(tmp_path.parent / "other", "SVFIT_CACHE") == "$SVFIT_CACHE"
    assert place(tmp_path.parent / "other", "HF_HUB_CACHE") == "outside of the home folder"


def test_messages_are_heard_again_afterwards(capsys):
    """A program that asks for the page goes on to hear what this package says."""
    ours = logging.getLogger("svfit_diffusion")
    ours.setLevel(logging.INFO)
    assert main(["doctor", "--quick"]) in (0, 1)
    assert ours.level == logging.INFO
