"""Concepts whose word lies in a text encoder's output: loaded, combined, renamed, exported."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_families import make_zimage
from helpers.tiny_pipelines import make_concept
from safetensors.torch import load_file

from svfit_diffusion.cli.main import main
from svfit_diffusion.concept.file import from_bytes, to_bytes, write_concept
from svfit_diffusion.families import recognise
from svfit_diffusion.pipeline.fusing import fuse_concepts, unfuse_concepts
from svfit_diffusion.pipeline.loading import (
    load_concept,
    loaded_concepts,
    remove_concept,
    set_concepts,
    swap_concept,
)
from svfit_diffusion.sharing.combining import combine
from svfit_diffusion.sharing.fused_export import export_pipeline
from svfit_diffusion.sharing.lora_export import export_lora, lora_files
from svfit_diffusion.sharing.renaming import rename

PROMPT = "sks dog and zwx mug"


@pytest.fixture(scope="module")
def made():
    pipe = make_zimage()
    pipe.set_progress_bar_config(disable=True)
    concepts = []
    for seed, word in enumerate(("sks", "zwx")):
        plain = make_concept(pipe, seed=seed, token=word, targets={"transformer": "both"},
                             trigger=False)  # fmt: skip
        vector = np.random.default_rng(seed).standard_normal(8).astype(np.float16)
        concepts.append(replace(plain, trigger_rows=vector, trigger_shape={"text_encoder": (1, 8)},
                                outputs={"text_encoder": (-2,)}))  # fmt: skip
    return pipe, *concepts


@pytest.fixture
def base(made):
    yield made
    for name in list(loaded_concepts(made[0])):
        remove_concept(made[0], name)


@torch.no_grad()
def said(pipe, prompt=PROMPT):
    """The states of a prompt, without its padding."""
    return pipe.encode_prompt([prompt], "cpu", do_classifier_free_guidance=False)[0][0]


def vector(concept):
    return torch.from_numpy(concept.trigger_rows).float()


def through_a_file(concept):
    return from_bytes(to_bytes(concept), "it")


def test_two_add_and_each_has_its_strength(base):
    pipe, one, two = base
    typed = said(pipe)
    load_concept(pipe, through_a_file(one), name="rex")
    load_concept(pipe, through_a_file(two), 0.5, name="max")
    change = said(pipe) - typed
    places = change.any(-1)
    assert places.sum() == 6  # three letters each
    assert torch.allclose(change[places][:3], vector(one).expand(3, -1), atol=1e-5)
    assert torch.allclose(change[places][3:], 0.5 * vector(two).expand(3, -1), atol=1e-5)
    assert loaded_concepts(pipe)["max"].strengths == {"transformer": 0.5, "text_encoder": 0.5}
    fuse_concepts(pipe)
    assert torch.equal(said(pipe) - typed, change)
    unfuse_concepts(pipe)
    set_concepts(pipe, {"rex": 0.0})
    assert torch.equal(said(pipe), typed)
    set_concepts(pipe, {})
    assert torch.equal(said(pipe), typed)
    set_concepts(pipe, {"rex": 1.0})
    assert torch.allclose((said(pipe) - typed)[places][:3], vector(one), atol=1e-5)
    swap_concept(pipe, "rex", replace(one, trigger_rows=2 * one.trigger_rows))
    assert torch.allclose((said(pipe) - typed)[places][:3], 2 * vector(one), atol=1e-5)
    remove_concept(pipe, "rex")
    remove_concept(pipe, "max")
    assert torch.equal(said(pipe), typed)


def test_a_combined_concept_is_both_side_by_side(base):
    pipe, one, two = base
    load_concept(pipe, one, 0.8, name="rex")
    load_concept(pipe, two, -0.3, name="max")
    both = said(pipe)
    remove_concept(pipe, "rex")
    remove_concept(pipe, "max")
    file = through_a_file(combine([(one, 0.8), (two, -0.3)]))
    assert file.outputs == one.outputs and file.rows()["text_encoder"].shape == (2, 8)
    load_concept(pipe, file)
    assert torch.allclose(said(pipe), both, atol=1e-6)


def test_another_word_means_the_same(base):
    pipe, one, _ = base
    other = through_a_file(rename(one, "mug"))
    typed = said(pipe)
    load_concept(pipe, other, name="rex")
    change = said(pipe) - typed
    assert change.any(-1).sum() == 3  # of "mug", and not of "sks"
    assert torch.allclose(change[change.any(-1)], vector(one).expand(3, -1), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"outputs": {"text_encoder": (-1,)}}, "not one for the text encoders"),
        ({"outputs": {}}, "not one for the text encoders"),
        ({"trigger_shape": {"text_encoder": (2, 4)}}, "not one for the text encoders"),
    ],
)
def test_what_does_not_fit_is_refused(base, changes, reason):
    pipe, one, _ = base
    with pytest.raises(ValueError, match=reason):
        load_concept(pipe, replace(one, **changes))
    assert not loaded_concepts(pipe)


def test_without_the_text_encoder_the_word_cannot_be_heard(base):
    pipe, one, _ = base
    other = type(pipe)(**pipe.components | {"text_encoder": None})
    with pytest.raises(ValueError, match="heard in 'text_encoder', which the pipeline was loaded"):
        load_concept(other, one)
    load_concept(other, one.without_outputs(), name="rex")


def test_exports_say_what_they_lack(made, tmp_path):
    pipe, one, _ = made
    lacks = "the learned word sks is, in part or as a whole, added to the output"
    lora = export_lora(one, pipe, tmp_path / "rex.safetensors")
    assert lora.lacks.startswith(lacks) and [f.suffix for f in lora.files] == [
        ".safetensors", ".json"
    ]  # fmt: skip
    assert lora_files(one, tmp_path / "rex.safetensors")[:1] == [lora.files[0]]
    assert all("lora" in key or "alpha" in key for key in load_file(lora.files[0]))
    assert export_lora(one.without_outputs(), pipe, tmp_path / "b.safetensors").lacks == ""
    fused = export_pipeline(one, make_zimage(), tmp_path / "fused")
    assert fused.lacks.startswith(lacks)


def test_info_says_where_the_word_is(made, tmp_path, capsys):
    path = write_concept(made[1], tmp_path / "rex.safetensors")
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "added to that of text_encoder (hidden states -2)" in out and "(learned)" in out
    assert recognise(made[0]).word_outputs[0].layers == (-2,)
