"""Downloading from and uploading to the Hub, against a local server with its HTTP interface."""

from dataclasses import replace

import pytest
import torch
from helpers.local_hub import Hub, local_hub, turn_to
from helpers.tiny_pipelines import load, make_concept, picture
from huggingface_hub import ModelCard, constants
from PIL import Image

from svfit_diffusion.cli.main import main
from svfit_diffusion.concept.file import read_concept, to_bytes, write_concept
from svfit_diffusion.concept.hub import locate
from svfit_diffusion.generation.pictures import Parameters, save_png
from svfit_diffusion.pipeline.loading import load_concept, loaded_concepts
from svfit_diffusion.sharing.publishing import push_to_hub, write_repository


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in's address, with huggingface_hub turned to it."""
    with local_hub(monkeypatch, tmp_path / "downloads") as address:
        yield address


@pytest.fixture
def rex(pipe, tmp_path):
    concept = replace(make_concept(pipe), base="someone/tiny-base", license="CC-BY-4.0")
    return write_concept(concept, tmp_path / "rex.safetensors")


@pytest.fixture
def drawing(tmp_path):
    path = tmp_path / "beach.png"
    made = Parameters(prompt="a photo of sks dog on the beach", width=8, height=8)
    save_png(Image.new("RGB", (8, 8), "red"), path, made)
    return path


def test_pushed_and_loaded_again(hub, rex, drawing, pipe, base_folder):
    url = push_to_hub(rex, "me/rex", [drawing], token="hf_right")
    assert url == f"{hub}/me/rex"
    held = Hub.files["me/rex"]
    assert sorted(held) == ["README.md", "concept.safetensors", "images/0.png"]
    assert held["concept.safetensors"] == rex.read_bytes()
    name = load_concept(pipe, "me/rex", strength=0.8)
    assert name == "rex" and loaded_concepts(pipe)["rex"].strength == 0.8
    other = load(base_folder)
    load_concept(other, rex, strength=0.8)
    assert torch.equal(picture(pipe), picture(other))


def test_the_card_says_what_the_hub_reads(rex, drawing, tmp_path):
    folder = write_repository(rex, tmp_path / "repository", "me/rex", [drawing])
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert data["base_model"] == "someone/tiny-base"
    assert data["instance_prompt"] == "a photo of sks dog"
    assert data["tags"] == ["text-to-image", "diffusers", "svfit"]
    assert data["license"] == "cc-by-4.0"
    assert data["widget"] == [
        {"text": "a photo of sks dog on the beach", "output": {"url": "images/0.png"}}
    ]
    snippet = card.text.split("```python")[1].split("```")[0]
    compile(snippet, "card", "exec")
    assert 'load_concept(pipe, "me/rex"' in snippet
    assert locate(folder) == folder / "concept.safetensors"
    assert to_bytes(read_concept(locate(folder))) == rex.read_bytes()


def test_a_strangers_words_stay_words_in_the_card(pipe, tmp_path):
    evil = replace(
        make_concept(pipe),
        base='x"); import os; os.remove("a',
        class_word="<script>`\n---\nbase_model: y",
    )
    path = write_concept(evil, tmp_path / "evil.safetensors")
    text = (write_repository(path, tmp_path / "r", "me/evil") / "README.md").read_text()
    card = ModelCard(text)
    assert "base_model" not in card.data.to_dict() and "<script>" not in text
    compile(card.text.split("```python")[1].split("```")[0], "card", "exec")
    assert 'os.remove("a' not in text


def test_what_is_missing_is_said_in_one_sentence(hub, rex, pipe, tmp_path):
    Hub.files = {"me/empty": {"README.md": b""}, "me/large": {"concept.safetensors": b"1"}}
    cases = {
        "me/nothing": "no such repository",
        "me/empty": "holds no concept.safetensors",
        "me/large": "99,000,000 bytes",
        "folder/rex.safetensors": "No such file",
    }
    for source, reason in cases.items():
        with pytest.raises(ValueError, match=reason) as error:
            load_concept(pipe, source)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="refused .status 401.; try `hf auth login`"):
        push_to_hub(rex, "me/rex", token="hf_wrong")
    with pytest.raises(ValueError, match="is not a Hub id"):
        push_to_hub(rex, "me/rex/../x", token="hf_right")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    for path in (rex, tmp_path / "plain.png", tmp_path / "missing.png"):
        with pytest.raises(ValueError, match="is not a PNG with parameters"):
            push_to_hub(rex, "me/rex", [path], token="hf_right")


def test_offline_an_earlier_download_serves(hub, rex, pipe, monkeypatch, tmp_path, capsys):
    Hub.files = {"me/rex": {"concept.safetensors": rex.read_bytes()}}
    first = locate("me/rex")
    turn_to(monkeypatch, "http://127.0.0.1:9", tmp_path / "downloads")  # nobody listens there
    assert locate("me/rex") == first
    with pytest.raises(ValueError, match="offline.* and there is no earlier download"):
        locate("me/other")
    with pytest.raises(ValueError, match="cannot be reached; are you offline"):
        push_to_hub(rex, "me/rex", token="hf_right")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("me/rex") == first
    assert main(["generate", "--prompt", "x", "--concept", "me/other:0.5"]) == 2
    err = capsys.readouterr().err
    assert "'me/other' is not a file here" in err and len(err.strip().splitlines()) == 1


def test_a_card_names_whose_the_concept_is(hub, rex):
    """Of a name alone, only the Hub knows whose it is."""
    assert push_to_hub(rex, "rex", token="hf_right") == f"{hub}/me/rex"
    assert b'load_concept(pipe, "me/rex"' in Hub.files["me/rex"]["README.md"]
