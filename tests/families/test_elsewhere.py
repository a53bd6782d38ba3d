"""elsewhere.py: a base whose repository lacks a component is whole with that from another place."""

import json
import shutil

import pytest
import torch
from helpers.tiny_newer_families import make_hidream

from svfit_diffusion.families import hollow_base, load_base, outline_base
from svfit_diffusion.families.bases.hidream import HiDream
from svfit_diffusion.pipeline import estimate_size
from svfit_diffusion.settings import TrainConfig

PARTS = ("text_encoder_4", "tokenizer_4")


@pytest.fixture
def whole(tmp_path):
    """A tiny HiDream's folder with all that it needs."""
    make_hidream().save_pretrained(tmp_path / "whole")
    return tmp_path / "whole"


@pytest.fixture
def published(whole, monkeypatch):
    """As HiDream is published: without Llama, which is a repository of its own."""
    folder = shutil.copytree(whole, whole.parent / "published")
    index = json.loads((folder / "model_index.json").read_text())
    llama = whole.parent / "llama"
    for part in PARTS:
        shutil.copytree(folder / part, llama, dirs_exist_ok=True)
        shutil.rmtree(folder / part)
        del index[part]
    (folder / "model_index.json").write_text(json.dumps(index))
    places = {part: (kind, str(llama)) for part, (kind, _) in HiDream.elsewhere.items()}
    monkeypatch.setattr(HiDream, "elsewhere", places)
    return folder


def test_it_is_loaded_whole(whole, published):
    ours, theirs = load_base(str(published)), load_base(str(whole))
    assert ours.text_encoder_4.dtype == torch.float32
    said = [pipe.encode_prompt("a sks dog", device="cpu")[2] for pipe in (ours, theirs)]
    torch.testing.assert_close(*said)


def test_it_is_counted_without_its_weights(whole, published):
    sizes = [estimate_size(str(folder), TrainConfig()) for folder in (published, whole)]
    assert sizes[0].values == sizes[1].values and sizes[0].trigger == sizes[1].trigger > 0
    hollow, full = (hollow_base(str(folder), torch.float32)[0] for folder in (published, whole))
    assert hollow.tokenizer_4("sks").input_ids == full.tokenizer_4("sks").input_ids
    assert hollow.text_encoder_4.num_parameters() == full.text_encoder_4.num_parameters()
    assert outline_base(str(published)).text_encoder_4 is None


def test_what_cannot_be_had_is_named(published, monkeypatch):
    missing = {part: (kind, "nobody/llama") for part, (kind, _) in HiDream.elsewhere.items()}
    monkeypatch.setattr(HiDream, "elsewhere", missing)
    with pytest.raises(ValueError, match=r"text_encoder_4 is published as 'nobody/llama'.*login"):
        load_base(str(published))
