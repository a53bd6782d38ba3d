"""Downloading from and uploading to the Hub, against a local server with its HTTP interface."""

import base64
import hashlib
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch
from helpers.tiny_pipelines import load, make_concept, picture
from huggingface_hub import ModelCard, constants

from svfit_diffusion.cli.main import main
from svfit_diffusion.concept.file import read_concept, to_bytes, write_concept
from svfit_diffusion.concept.hub import locate
from svfit_diffusion.generation.pictures import Parameters, save_png
from svfit_diffusion.pipeline.loading import load_concept, loaded_concepts
from svfit_diffusion.sharing.publishing import push_to_hub, write_repository

COMMIT = "0" * 39 + "1"


class Hub(BaseHTTPRequestHandler):
    """Just enough of huggingface.co: create, preupload, commit, resolve."""

    files: dict[str, dict[str, bytes]] = {}

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self, **values):
        self.reply(200, json.dumps(values).encode(), Content_Type="application/json")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.reply(401, b"{}")
        elif self.path == "/api/repos/create":
            made = json.loads(body)
            repo = f"{made.get('organization') or 'me'}/{made['name']}"
            self.files.setdefault(repo, {})
            self.answer(url=f"http://{self.headers['Host']}/{repo}", name=repo, id=repo)
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer(
                files=[{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            )
        elif "/commit/" in self.path:
            repo = "/".join(self.path.split("/")[3:5])
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = base64.b64decode(entry["value"]["content"])
                    self.files[repo][entry["value"]["path"]] = value
            self.answer(
                commitUrl=f"http://{self.headers['Host']}/{repo}/commit/{COMMIT}", commitOid=COMMIT
            )
        else:
            self.answer()

    def do_GET(self):
        parts = self.path.strip("/").split("/")
        repo = "/".join(parts[:2])
        if repo not in self.files or "resolve" not in parts:
            self.reply(404, b"", X_Error_Code="RepoNotFound")
        elif (data := self.files[repo].get("/".join(parts[4:]))) is None:
            self.reply(404, b"", X_Error_Code="EntryNotFound")
        else:
            tag = f'"{hashlib.sha1(data).hexdigest()}"'
            size = {"X_Linked_Size": "99000000"} if repo == "me/large" else {}
            self.reply(200, data, ETag=tag, X_Repo_Commit=COMMIT, **size)

    do_HEAD = do_GET


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in's address, with huggingface_hub turned to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.files = {}
    address = f"http://127.0.0.1:{server.server_port}"
    turn_to(monkeypatch, address, tmp_path / "downloads")
    yield address
    server.shutdown()
    server.server_close()


def turn_to(monkeypatch, address, cache):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        for variant in (name, name.lower()):
            monkeypatch.delenv(variant, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()


@pytest.fixture
def rex(pipe, tmp_path):
    concept = replace(make_concept(pipe), base="someone/tiny-base", license="CC-BY-4.0")
    return write_concept(concept, tmp_path / "rex.safetensors")


@pytest.fixture
def drawing(tmp_path):
    from PIL import Image

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


def test_what_is_missing_is_said_in_one_sentence(hub, rex, pipe):
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
    with pytest.raises(ValueError, match="is not a PNG with parameters"):
        push_to_hub(rex, "me/rex", [rex], token="hf_right")


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
