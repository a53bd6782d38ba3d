"""web: the real app on loopback, used through its API as any program would."""

import types
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from safetensors.numpy import load as load_tensors

from svfit_diffusion.cli.main import main
from svfit_diffusion.families import load_base
from svfit_diffusion.generation.pictures import read_parameters
from svfit_diffusion.sharing.lora_export import export_lora
from svfit_diffusion.web.page import render
from svfit_diffusion.web.page.events import escape
from svfit_diffusion.web.page.generate_actions import GenerateActions
from svfit_diffusion.web.service.server import MAX_UPLOAD
from svfit_diffusion.web.studio.cards import read_card
from svfit_diffusion.web.studio.generation_jobs import GenerationJobs
from svfit_diffusion.web.studio.limits import MAX_ACTIVE_CONCEPTS
from svfit_diffusion.web.studio.shared_pipeline import unique_names

PROMPT = "a photo of sks dog"
ENDPOINTS = {
    *("/generate", "/compare", "/train", "/training", "/stop_training", "/resume_training"),
    *("/library", "/inspect", "/add", "/download", "/lora", "/delete", "/undo", "/parameters"),
    *("/base", "/use_base", "/rename"),
}


@pytest.fixture(scope="module")
def client(url, tmp_path_factory):
    return Client(url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def generate(client, concepts=None, **given):
    """Paths of the pictures that the endpoint returns, two steps each."""
    options = {"prompt": PROMPT, "num": 1, "seed": 7, "steps": 2} | given
    made = client.predict(concepts=concepts or {}, api_name="/generate", **options)
    return [Path(picture["image"]) for picture in made]


def call(client, name, *given, **more):
    return client.predict(*given, api_name=f"/{name}", **more)


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_a_concept_changes_the_picture_and_the_png_says_how_it_was_made(client):
    plain, with_rex = generate(client), generate(client, {"rex": 0.8}, num=2)
    assert [path.name for path in with_rex] == ["0000000007.png", "0000000008.png"]
    assert not np.array_equal(pixels(plain[0]), pixels(with_rex[0]))
    found = read_parameters(with_rex[1])
    assert (found.prompt, found.seed, found.steps, found.base) == (PROMPT, 8, 2, "tiny")
    assert found.concepts == (("rex", 0.8),)
    assert read_parameters(plain[0]).concepts == ()
    assert call(client, "parameters", handle_file(with_rex[1])) == found.to_infotext()


def test_windows_do_not_disturb_one_another(client, url):
    other = Client(url, verbose=False)
    plain, one = generate(client), generate(client, {"rex": 1})
    two = generate(other, {"max": 1, "rex": 0.5})
    assert np.array_equal(pixels(generate(client)[0]), pixels(plain[0]))
    assert np.array_equal(pixels(generate(client, {"rex": 1})[0]), pixels(one[0]))
    assert np.array_equal(pixels(generate(other, {"max": 1, "rex": 0.5})[0]), pixels(two[0]))
    assert read_parameters(generate(client, {"rex": 0})[0]).concepts == (("rex", 0.0),)


def test_another_file_of_the_same_name_is_another_concept(files, tmp_path):
    twin = tmp_path / "rex.safetensors"
    twin.write_bytes(files["max"].read_bytes())
    cards = [(read_card(path), 1.0) for path in (files["rex"], twin)]
    assert list(unique_names(cards)) == ["rex", "rex_2"]


def test_the_endpoints_are_named_and_described(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == ENDPOINTS
    assert all(len(info["description"]) > 30 for info in endpoints.values())
    for name, info in endpoints.items():
        names = [parameter["parameter_name"] for parameter in info["parameters"]]
        assert not any(name.startswith("parameter_") for name in names), (name, names)
        assert not any(found["label"].startswith("value_") for found in info["returns"]), name


def test_what_programs_read_is_json_and_not_prose(client):
    (rex,) = [entry for entry in call(client, "library") if entry["name"] == "rex"]
    assert (rex["words"], rex["class_words"], rex["learned"]) == (["sks"], ["dog"], True)
    assert rex["fits"] is True and rex["misfit"] == "" and rex["bytes"] > 100
    assert call(client, "training") == {"id": "", "state": "none"}
    with pytest.raises(AppError, match="must be a list of names"):
        call(client, "compare", "rex")


def test_a_word_is_changed_and_two_concepts_of_one_word_are_used_together(client, files):
    name = call(client, "add", handle_file(files["evil"]), "twin", "kuv")
    (twin,) = [entry for entry in call(client, "library") if entry["name"] == name]
    assert twin["words"] == ["kuv"]
    with pytest.raises(AppError, match="rex is called by 'sks'"):
        call(client, "rename", name, "sks")
    assert call(client, "rename", name, "zap")["words"] == ["zap"]
    generate(client, {"rex": 1, name: 1}, prompt="sks dog and zap")
    call(client, "delete", name)


@pytest.mark.parametrize(
    ("concepts", "given", "reason"),
    [
        ({"nobody": 1}, {}, "no concept named 'nobody'"),
        ({"../rex": 1}, {}, "no concept named '../rex'"),
        ({"other": 1}, {}, "other was trained on 'tiny', not on the base in use here"),
        ({"rex": 9}, {}, "strengths from 0 to 1.5"),
        ({"rex": "1"}, {}, "strengths from 0 to 1.5"),
        (["rex"], {}, "strengths from 0 to 1.5"),
        ({str(i): 1 for i in range(MAX_ACTIVE_CONCEPTS + 1)}, {}, f"At most {MAX_ACTIVE_CONCEPTS}"),
        ({}, {"prompt": "  "}, "Write what to generate"),
        ({}, {"prompt": "x" * 2000}, "1,000 characters"),
        ({}, {"num": 99}, "greater than maximum value 8"),
        ({}, {"steps": 0}, "less than minimum value 1"),
        ({}, {"width": 33}, "multiple of 8"),
    ],
)
def test_mistakes_are_refused_with_a_sentence(client, files, concepts, given, reason):
    with pytest.raises(AppError, match="(?i)" + reason.replace(".", r"\.")) as caught:
        generate(client, concepts, **given)
    assert "Traceback" not in str(caught.value) and str(files["rex"].parent) not in str(
        caught.value
    )


def test_a_comparison_is_one_labelled_grid(client):
    over = pixels(call(client, "compare", ["rex"], PROMPT, 3, 1))
    against = pixels(call(client, "compare", ["rex", "max"], "a photo of {}", 3, 1))
    assert over.shape[1] / over.shape[0] > 1.5, "seven strengths: four in a row"
    assert against.shape[1] < against.shape[0], "two columns, three strengths"
    for names in ([], ["other"], ["rex"] * 5):
        with pytest.raises(AppError):
            call(client, "compare", names)


def test_a_strangers_file_is_verified_added_given_away_deleted_and_brought_back(client, files):
    evil = call(client, "inspect", handle_file(files["evil"]))
    assert evil["misfit"] == "" and "\x1b" not in str(evil)
    with pytest.raises(AppError, match="bad.safetensors is not a usable concept file"):
        call(client, "inspect", handle_file(files["bad"]))
    name = call(client, "add", handle_file(files["evil"]), "../../Evil Rex!")
    assert name == "evil_rex"
    assert call(client, "add", handle_file(files["evil"]), "again") == name, "it is here already"
    assert name in [entry["name"] for entry in call(client, "library")]
    copy = Path(call(client, "download", name))
    assert copy.name == "evil_rex.safetensors"
    assert copy.read_bytes() == files["evil"].read_bytes()
    call(client, "delete", name)
    assert name not in [entry["name"] for entry in call(client, "library")]
    assert call(client, "undo") == name
    call(client, "delete", name)
    for endpoint, given in (("delete", name), ("download", "/etc")):
        with pytest.raises(AppError, match="no concept named"):
            call(client, endpoint, given)


def test_a_concept_goes_to_other_programs_as_the_lora_that_export_writes(
    workspace, client, tmp_path
):
    generate(client, {"rex": 1.0})  # a concept on the pipeline is not in the way
    with zipfile.ZipFile(call(client, "lora", "rex")) as archive:
        archive.extractall(tmp_path / "zip")
    found = {path.name: path.read_bytes() for path in (tmp_path / "zip").iterdir()}
    fresh, entry = load_base(workspace.pipeline.source), workspace.library.get("rex")
    made = export_lora(entry.card.concept, fresh, tmp_path / "rex.safetensors")
    assert {path.name for path in made.files} <= set(found)
    lora, wanted = (
        load_tensors(data) for data in (found["rex.safetensors"], made.files[0].read_bytes())
    )
    assert set(lora) == set(wanted) and all((lora[k] == wanted[k]).all() for k in lora)
    with pytest.raises(AppError, match="no concept named"):
        call(client, "lora", "nobody")


@pytest.mark.filterwarnings("ignore:The library has no:UserWarning")  # no page, no pop-up
def test_a_picture_fills_the_form_and_impossible_values_are_brought_in_range(workspace, client):
    picture = generate(client, {"rex": 0.8}, seed=11)[0]
    form = GenerateActions(workspace, None)
    text, _ = form.read_file(str(picture))
    chosen, prompt, negative, fresh, seed, steps, _, width, *_ = form.fill(text)
    assert (chosen, prompt, negative, fresh) == ({"rex": 0.8}, PROMPT, "", False)
    assert (seed, steps, width) == (11, 2, 32)
    strange = (
        "x\nSteps: 999999, Seed: -5, CFG scale: nan, Size: 99999x9, Concepts: gone:1, Model: m"
    )
    chosen, _, _, _, seed, steps, guidance, width, height, _ = form.fill(strange)
    assert (chosen, seed, steps, guidance, width, height) == ({}, 0, 100, 0, 2_048, 8)


def test_what_the_base_does_not_read_of_a_prompt_is_said_on_the_page(workspace):
    actions = GenerateActions(workspace, GenerationJobs(workspace))
    window = types.SimpleNamespace(session_hash="window")

    def last_view(prompt, negative):
        given = (1, False, 7, 2, 2, 32, 32, window)
        return [view for _, view, _ in actions.generate({}, prompt, negative, *given)][-1]

    long = "a photo of a dog " * 40
    assert last_view(PROMPT, "") == ""
    assert "The prompt is too long: this base does not read its end" in last_view(long, "")
    assert "The negative prompt is too long" in last_view(PROMPT, long)


def test_a_strangers_text_is_never_html(files):
    card = read_card(files["evil"])
    assert "\x1b" not in card.trigger and escape(card.trigger).startswith("&lt;img src=x")
    for said in (
        render.facts(card, ""),
        render.note("<b>\x1b\u202e"),
        escape("<b>\x1b\u202e"),
    ):
        assert not {"\x1b", "\u202e"} & set(said) and "<img" not in said and "<b>" not in said


def test_only_files_that_were_uploaded_are_read_or_served(url, files, workspace):
    stolen = {"path": str(files["rex"]), "meta": {"_type": "gradio.FileData"}}
    address = f"{url}gradio_api/call/inspect"  # not the Client: it would upload the file
    event = httpx.post(address, json={"data": [stolen]}).json()["event_id"]
    answer = httpx.get(f"{address}/{event}", timeout=300).text
    assert "event: error" in answer and "event: complete" not in answer
    found = workspace.library.get("rex").path
    for path in (files["rex"], found, Path("pyproject.toml").resolve(), "/etc/hostname"):
        assert httpx.get(f"{url}gradio_api/file={path}").status_code == 403


def test_uploads_are_bounded_and_nothing_is_recorded(url):
    big = {"files": ("big.safetensors", b"0" * (MAX_UPLOAD + 1))}
    assert httpx.post(f"{url}gradio_api/upload", files=big).status_code == 413
    config = httpx.get(f"{url}config").json()
    assert not config["analytics_enabled"] and not config["run_history"]
    assert httpx.get(f"{url}monitoring/summary").status_code != 200


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--base", "no/such-base"], "the base 'no/such-base' could not be loaded"),
        (["--concept", "no.safetensors"], "no.safetensors"),
        (["--host", "0.0.0.0"], "reachable for others; pass --auth"),
        (["--host", "0.0.0.0", "--auth", "me"], "user:password"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence(
    given, reason, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # set by the command; put back after the test
    monkeypatch.setenv("SVFIT_HOME", str(tmp_path))
    assert main(["app", *given]) == 2
    err = capsys.readouterr().err
    assert reason in err and len(err.strip().splitlines()) == 1


def test_a_port_that_is_taken_is_one_sentence(base_folder, url, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("SVFIT_HOME", str(tmp_path))
    port = str(httpx.URL(url).port)
    assert main(["app", "--base", str(base_folder), "--port", port]) == 2
    assert "pass another --port" in capsys.readouterr().err


def test_the_command_serves_with_concepts_from_the_start(
    base_folder, files, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("SVFIT_HOME", str(tmp_path))
    found = []

    def visit(page):
        client = Client(page.local_url, verbose=False)
        given = {"prompt": PROMPT, "concepts": {"rex": 1}, "steps": 1}
        found.append(client.predict(**given, api_name="/generate"))

    monkeypatch.setattr("gradio.Blocks.block_thread", visit)
    assert main(["app", "--base", str(base_folder), "--concept", str(files["rex"])]) == 0
    assert "Open http://127.0.0.1:" in capsys.readouterr().out
    assert read_parameters(found[0][0]["image"]).concepts == (("rex", 1.0),)


def test_a_base_is_chosen_and_nothing_is_there_to_stop(workspace, client):
    before = workspace.pipeline.pipe
    assert call(client, "use_base", workspace.pipeline.source) == workspace.pipeline.base
    assert workspace.pipeline.pipe is not before
    with pytest.raises(AppError):
        call(client, "use_base", "/no/such/base")
    assert call(client, "stop_training") == call(client, "training")
