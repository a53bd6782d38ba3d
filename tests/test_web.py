"""web: the real app on loopback, driven through its API as a stranger's program would."""

from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import load, make_concept
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from svfit_diffusion.cli import main
from svfit_diffusion.concept import write_concept
from svfit_diffusion.pictures import read_parameters
from svfit_diffusion.web import server
from svfit_diffusion.web.actions import SLOTS, Actions, shown
from svfit_diffusion.web.page import build_page
from svfit_diffusion.web.studio import MAX_FILE, Studio, named, read_card

PROMPT = "a photo of sks dog"


@pytest.fixture(scope="module")
def files(base_folder, tmp_path_factory):
    """Concept files of the tiny base by name, and some that are none."""
    folder, pipe = tmp_path_factory.mktemp("files"), load(base_folder)
    rex, max_ = (make_concept(pipe, seed=s, token=t) for s, t in ((1, "sks"), (2, "zwx")))
    evil = {"token": "<img src=x onerror=alert(1)>", "class_word": "\x1b[2J"}
    made = {"rex": rex, "max": max_, "evil": replace(rex, **evil)}
    made["other"] = replace(rex, fingerprints=dict.fromkeys(rex.fingerprints, "0" * 32))
    paths = {name: write_concept(c, folder / f"{name}.safetensors") for name, c in made.items()}
    paths["bad"] = folder / "bad.safetensors"
    paths["bad"].write_bytes(b"no concept")
    return paths


@pytest.fixture(scope="module")
def studio(base_folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVFIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Studio(str(base_folder))


@pytest.fixture(scope="module")
def url(studio, tmp_path_factory):
    """The address of the app, served as `svfit app` serves it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("gradio")))
        page = build_page(studio, [])
        yield server.launch(page, "127.0.0.1", None)[1]
        page.close(verbose=False)


@pytest.fixture(scope="module")
def client(url, tmp_path_factory):
    return Client(url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def draw(client, *concepts, **given):
    """Paths of the pictures that the endpoint returns, two steps each."""
    options = {"prompt": PROMPT, "num": 1, "seed": 7, "steps": 2} | given
    listed = [handle_file(path) for path in concepts]
    made = client.predict(concepts=listed, api_name="/generate", **options)
    return [Path(picture["image"]) for picture in made]


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_a_concept_changes_the_picture_and_the_png_says_how_it_was_made(client, files):
    plain, with_rex = draw(client), draw(client, files["rex"], strength_1=0.8, num=2)
    assert [path.name for path in with_rex] == ["0000000007.png", "0000000008.png"]
    assert not np.array_equal(pixels(plain[0]), pixels(with_rex[0]))
    held = read_parameters(with_rex[1])
    assert (held.prompt, held.seed, held.steps, held.base) == (PROMPT, 8, 2, "tiny")
    assert held.concepts == (("rex", 0.8),)
    assert read_parameters(plain[0]).concepts == ()


def test_windows_do_not_disturb_one_another(client, url, files):
    other = Client(url, verbose=False)
    plain, one = draw(client), draw(client, files["rex"])
    two = draw(other, files["max"], files["rex"], strength_2=0.5)
    assert np.array_equal(pixels(draw(client)[0]), pixels(plain[0]))
    assert np.array_equal(pixels(draw(client, files["rex"])[0]), pixels(one[0]))
    again = draw(other, files["max"], files["rex"], strength_2=0.5)
    assert np.array_equal(pixels(again[0]), pixels(two[0]))
    off = draw(client, files["rex"], strength_1=0)
    assert np.array_equal(pixels(off[0]), pixels(plain[0]))


def test_another_file_of_the_same_name_is_another_concept(client, files, tmp_path):
    twin = tmp_path / "rex.safetensors"
    twin.write_bytes(files["max"].read_bytes())
    first, second = draw(client, files["rex"]), draw(client, twin)
    assert not np.array_equal(pixels(first[0]), pixels(second[0]))
    cards = [(read_card(path), 1.0) for path in (files["rex"], twin)]
    assert list(named(cards)) == ["rex", "rex_2"]


def test_the_endpoint_is_named_and_described(client):
    (endpoint,) = client.view_api(return_format="dict")["named_endpoints"].items()
    assert endpoint[0] == "/generate" and "PNG files" in endpoint[1]["description"]


@pytest.mark.parametrize(
    ("names", "given", "reason"),
    [
        (["bad"], {}, "bad.safetensors is not a usable concept file: it is no safetensors"),
        (["other"], {}, "other was learned on 'tiny', not on the base in use here"),
        (["rex", "rex"], {}, "are both called by 'sks'"),
        (["rex"] * (SLOTS + 1), {}, f"Only the first {SLOTS}"),
        ([], {"prompt": "  "}, "Write what to draw"),
        ([], {"prompt": "x" * 2000}, "1,000 characters"),
        ([], {"num": 99}, "greater than maximum value 8"),
        ([], {"steps": 0}, "less than minimum value 1"),
    ],
)
def test_mistakes_are_refused_with_a_sentence(client, files, names, given, reason):
    with pytest.raises(AppError, match=reason.replace(".", r"\.")) as caught:
        draw(client, *(files[name] for name in names), **given)
    assert "Traceback" not in str(caught.value) and "/" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:bad.safetensors:UserWarning")  # no page, no pop-up
def test_the_page_lists_concepts_and_warns_of_the_others(studio, files):
    actions = Actions(studio)
    paths = [str(files[name]) for name in ("rex", "bad", "max")]
    kept, listed, prompt, *sliders = actions.show_concepts(paths, [], *[1.0] * SLOTS)
    assert kept == listed == [paths[0], paths[2]]
    assert prompt["placeholder"] == "a photo of sks dog on the beach"
    size = files["rex"].stat().st_size
    assert sliders[0]["label"] == f"sks dog · on tiny · {size:,} bytes"
    assert [slider["visible"] for slider in sliders] == [True, True, False, False]
    left = actions.show_concepts(paths[2:], listed, 0.4, 0.7, 1.0, 1.0)
    assert left[3]["value"] == 0.7, "a strength stays with its file"


def test_a_strangers_text_is_never_html(files):
    label = read_card(files["evil"]).label  # labels are text to the page, messages are HTML
    assert "\x1b" not in label and shown(label).startswith("&lt;img src=x")


def test_only_files_that_were_uploaded_are_read_or_served(url, files):
    stolen = {"path": str(files["rex"]), "meta": {"_type": "gradio.FileData"}}
    data = [PROMPT, "", 1, 7, 2, 3.0, [stolen], 1.0, 1.0, 1.0, 1.0]
    call = f"{url}gradio_api/call/generate"  # not the Client: it would upload the file
    event = httpx.post(call, json={"data": data}).json()["event_id"]
    answer = httpx.get(f"{call}/{event}", timeout=30).text
    assert "event: error" in answer and "event: complete" not in answer
    for path in (files["rex"], Path("pyproject.toml").resolve(), "/etc/hostname"):
        assert httpx.get(f"{url}gradio_api/file={path}").status_code == 403


def test_uploads_are_bounded_and_nothing_is_recorded(url, files):
    big = {"files": ("big.safetensors", b"0" * (MAX_FILE + 1))}
    assert httpx.post(f"{url}gradio_api/upload", files=big).status_code == 413
    config = httpx.get(f"{url}config").json()
    assert not config["analytics_enabled"] and not config["run_history"]
    assert httpx.get(f"{url}monitoring/summary").status_code != 200


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--base", "no/such-base"], "the base 'no/such-base' could not be loaded"),
        (["--concept", "no.safetensors"], "no.safetensors"),
        (["--host", "0.0.0.0"], "lets others in; pass --auth"),
        (["--host", "0.0.0.0", "--auth", "me"], "user:password"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(given, reason, monkeypatch, capsys):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # set by the command; put back after the test
    assert main(["app", *given]) == 2
    err = capsys.readouterr().err
    assert reason in err and len(err.strip().splitlines()) == 1


def test_a_port_that_is_taken_is_one_sentence(base_folder, url, monkeypatch, capsys):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    port = str(httpx.URL(url).port)
    assert main(["app", "--base", str(base_folder), "--port", port]) == 2
    assert "pass another --port" in capsys.readouterr().err


def test_the_command_serves_with_concepts_from_the_start(base_folder, files, monkeypatch, capsys):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    found = []

    def visit(page):
        client = Client(page.local_url, verbose=False)
        found.append(client.predict(prompt=PROMPT, num=1, steps=1, api_name="/generate"))

    monkeypatch.setattr("gradio.Blocks.block_thread", visit)
    assert main(["app", "--base", str(base_folder), "--concept", str(files["rex"])]) == 0
    assert "Open http://127.0.0.1:" in capsys.readouterr().out
    assert read_parameters(found[0][0]["image"]).concepts == (("rex", 1.0),)
