"""A base without its weights gives the same exports and imports as the whole base."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_families import TINY, all_targets
from helpers.tiny_pipelines import load, make_concept
from safetensors import safe_open

from svfit_diffusion.families import load_base, outline_base, recognise
from svfit_diffusion.sharing.lora_export import export_lora
from svfit_diffusion.sharing.lora_import import import_lora


@pytest.fixture(scope="module", params=["sdxl", "flux", "z-image"])
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outline") / request.param
    pipe = TINY[request.param]()
    pipe.to(getattr(torch, recognise(pipe).dtype)).save_pretrained(folder)
    return folder


def with_words(pipe, concept):
    """The concept with a learned row for each text encoder that takes one."""
    shape = {
        part: (1, model.config.hidden_size)
        for part, model in recognise(pipe).components(pipe).items()
        if part.startswith("text_encoder")
    }
    rows = np.full(sum(width for _, width in shape.values()), 0.1, np.float16)
    return replace(concept, trigger_rows=rows if shape else None, trigger_shape=shape)


def contents(path):
    """A file's metadata and tensors, these as bytes; the header's order is not the same twice."""
    with safe_open(path, framework="np") as file:
        return file.metadata(), {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118


def test_exports_are_the_same_to_the_byte(base, tmp_path):
    whole, outline = load(base), outline_base(str(base))
    concept = make_concept(whole, targets=all_targets(whole), trigger=False)
    concept = with_words(whole, concept)
    written = []
    for name, pipe in (("whole", whole), ("outline", outline)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "a.safetensors"
        made = export_lora(concept, pipe, path, strength=0.5)  # which needs the class word's row
        *tensors, card = made.files
        written.append([card.read_bytes(), *map(contents, tensors)])
    assert written[0] == written[1] and len(written[0]) == 2 + bool(concept.trigger_shape)
    path = tmp_path / "whole" / "a.safetensors"
    ways = [import_lora(path, pipe, "energy=0.9").concept for pipe in (whole, outline)]
    assert np.array_equal(ways[0].deltas, ways[1].deltas) and ways[0].ranks == ways[1].ranks


def test_no_weight_is_in_memory_but_the_tables_of_words(base):
    pipe = outline_base(str(base))
    family = recognise(pipe)
    assert pipe.vae is None
    for model in family.components(pipe).values():
        held = [n for n, p in model.named_parameters() if p.device.type != "meta"]
        assert all(name.endswith("token_embedding.weight") for name in held)


def test_toybox_and_single_files(tmp_path):
    assert recognise(outline_base("toybox")).name == "sd"
    with pytest.raises(ValueError, match=r"is not a \.safetensors file"):
        outline_base(__file__)


def test_a_folder_without_its_tables_is_refused(base, tmp_path):
    if not recognise(outline_base(str(base))).encoders:
        return
    folder = tmp_path / "damaged"
    shutil.copytree(base, folder)
    for file in (folder / "text_encoder").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match="text_encoder holds no safetensors file"):
        outline_base(str(folder))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "Odd"}))
    with pytest.raises(ValueError, match="Odd"):
        outline_base(str(folder))
    with pytest.raises(ValueError, match="could not be loaded"):
        outline_base("no/such-base-at-all")
    assert load_base(str(base)) is not None
