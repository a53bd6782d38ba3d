"""web.page: templates escape every text, and what the package needs to show the page is in it."""

import ast
import importlib
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from svfit_diffusion import web
from svfit_diffusion.web.page import render, run_panel
from svfit_diffusion.web.page.assets import CSS, SHORTCUTS, render_template
from svfit_diffusion.web.studio.generation_jobs import Progress

WEB = Path(web.__file__).parent
TEMPLATES = sorted((WEB / "page" / "templates").glob("*.html"))
EVIL = "<img src=x onerror=alert(1)>\"'\x1b[2J\u202e\n"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("base_card", {"title": EVIL, "text": EVIL, "picture": EVIL}),
        ("prompt_hints", {"hints": [EVIL], "unread": EVIL, "tokens": 1, "room": 1}),
        (
            "concept",
            dict.fromkeys(("preview", "trigger", "name", "size", "base", "mismatch"), EVIL),
        ),
        ("empty", {"title": EVIL, "hint": EVIL}),
        ("facts", {"error": "", "mismatch": EVIL, "remark": EVIL, "facts": {EVIL: EVIL}}),
        ("facts", {"error": EVIL, "mismatch": "", "remark": "", "facts": {}}),
        ("pictures", {"pictures": [(EVIL, EVIL)]}),
        (
            "progress",
            {
                **{"message": EVIL, "percent": 50, "preview": EVIL, "remarks": [EVIL]},
                **{"tiles": [EVIL, ""], "shape": EVIL},
            },
        ),
        (
            "run",
            {
                **{"state": EVIL, "title": EVIL, "detail": EVIL, "percent": 0, "curve": None},
                **{
                    "summary": {EVIL: EVIL},
                    "messages": [EVIL],
                    "pictures": [(EVIL, EVIL)],
                    "notes": [EVIL],
                    "taught": EVIL,
                    "photos": [EVIL],
                    "stages": [(EVIL, EVIL)],
                    "verdict": {"word": EVIL, "text": EVIL},
                    "scenes": [(EVIL, EVIL, EVIL)],
                },
            },
        ),
        ("verdict", {"kind": EVIL, "text": EVIL}),
        ("strip", {"text": EVIL, "percent": 50}),
    ],
)
def test_every_value_of_a_template_is_text(name, values):
    html = render_template(f"{name}.html", **values)
    assert "&lt;img src=x" in html
    assert not any(bad in html for bad in ("<img src=x", "alert(1)>", "\x1b", "\u202e", "\n"))
    assert "\"'" not in html, "quotes end no attribute"


def test_no_template_marks_a_value_as_safe():
    assert len(TEMPLATES) > 5
    for path in TEMPLATES:
        assert not any(word in path.read_text() for word in ("safe", "autoescape", "Markup")), path


def test_a_live_view_has_a_bar_only_where_the_total_is_known():
    assert render.note("") == "" == render.progress(Progress())
    assert "bar" not in render.note("Waiting.")
    view = render.progress(Progress("Step", 1, 4, Image.new("RGB", (8, 8))))
    assert "width:25.0%" in view and 'src="data:image/jpeg;base64,' in view


def test_the_live_view_has_a_tile_for_each_picture(tmp_path):
    red, now = tmp_path / "red.png", Image.new("RGB", (8, 8), "blue")
    Image.new("RGB", (8, 8), "red").save(red)
    view = render.progress(Progress("Step", 1, 4, now), [red, None, None], "512 / 768")
    tiles = view.partition('<div class="tiles">')[2].split('<div class="tile"')[1:]
    assert [tile.count("<img") for tile in tiles] == [1, 1, 0]
    assert 'alt="picture 1"' in tiles[0] and 'alt="picture 2 so far"' in tiles[1]
    assert all("aspect-ratio: 512 / 768" in tile for tile in tiles)
    assert render.inline_picture(red) in tiles[0] and render.inline_picture(now) in tiles[1]
    assert view.count("<img") == 2, "the preview is in its tile alone"
    (first, second) = render.progress(Progress("Step", 0, 4), [None] * 2).split("</div><div")[-2:]
    assert "<img" not in first + second


def test_a_loss_curve_lies_within_its_picture():
    status = {"losses": [[1, 0.5], [2, 0.4], [4, 0.3]], "fixed_noise": [[0, 0.6], [4, 0.2]]}
    html = run_panel.run(status | {"state": "training", "step": 4, "steps": 8})
    assert 'class="steps" points="0.0,33.0 68.6,60.0 205.7,87.0"' in html, "room for eight steps"
    assert 'class="fixed_noise" points="0.0,6.0 205.7,114.0"' in html and html.count("<circle") == 2
    assert "(0.600 to 0.200)" in html
    assert "<svg" not in run_panel.run({"state": "training", "losses": [[1, 0.5]]})


def test_assets_are_package_data():
    project = tomllib.loads((WEB.parents[1] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["svfit_diffusion.web.page"]
    files = {p for p in (WEB / "page").rglob("*") if p.suffix in (".html", ".css", ".js")}
    assert files == {p for pattern in patterns for p in (WEB / "page").glob(pattern)}
    assert "#title" in CSS and SHORTCUTS.startswith("() => {")


@pytest.mark.parametrize("path", sorted((WEB / "studio").glob("*.py")), ids=lambda p: p.stem)
def test_behind_the_page_there_is_no_gradio(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            assert "gradio" not in {(name or "").split(".")[0] for name in modules}


@pytest.mark.parametrize("room", ["studio", "page", "service"])
def test_no_name_that_a_room_offers_is_hidden_by_a_file(room):
    """An imported file becomes an attribute of its room, before a lazy name is looked up."""
    offered = set(importlib.import_module(f"{web.__name__}.{room}").__all__)
    assert not offered & {path.stem for path in (WEB / room).glob("*.py")}


def test_what_will_be_trained_is_shown_until_the_training_ends():
    summary = {"class word": "stuffed animal", "photos": "5 used"}
    for state in ("preparing", "training"):
        html = run_panel.run({"state": state, "summary": summary})
        assert "<th>class word</th><td>stuffed animal</td>" in html
    assert "stuffed animal" not in run_panel.run({"state": "done", "summary": summary})
