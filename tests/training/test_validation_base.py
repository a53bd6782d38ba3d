"""Validation pictures by another form of the base: its weights, with the trained base's edit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_families import TINY, save_tiny, tiny_config
from helpers.tiny_pipelines import load
from PIL import Image

from svfit_diffusion import TrainConfig
from svfit_diffusion.generation.sampling import generate
from svfit_diffusion.pipeline.fusing import fuse_concepts
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.training.loop import Training, train
from svfit_diffusion.training.runtime import make_accelerator

PROMPT = "a photo of sks dog"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Z-Image as it is trained, and its Turbo of other weights in a folder called so."""
    root = tmp_path_factory.mktemp("two")
    save_tiny("z-image", root)
    turbo = TINY["z-image"](seed=1).to(torch.bfloat16)
    turbo.save_pretrained(root / "z-image-turbo")
    config = tiny_config(
        root,
        max_train_steps=2,
        validation_prompt=PROMPT,
        validation_base=str(root / "z-image-turbo"),
        num_validation_images=1,
        train_token=False,  # text encoders are shared, so the denoiser is what is compared
    )
    return root, replace(config, learning_rate=1.0)  # an edit that is seen


def dense(root, concept):
    """The Turbo with the edit that a concept makes of the trained base's weights, added up."""
    plain, edited, other = (load(root / name) for name in ("base", "base", "z-image-turbo"))
    load_concept(edited, concept)
    fuse_concepts(edited)
    before, after = plain.transformer.state_dict(), edited.transformer.state_dict()
    after = {name.replace(".base_layer", ""): weight for name, weight in after.items()}
    weights = other.transformer.state_dict()
    for name, weight in before.items():
        weights[name] = weights[name] + (after[name] - weight)
    other.transformer.load_state_dict(weights)
    # a training takes text encoder and VAE from the base that is trained
    other.register_modules(vae=plain.vae, text_encoder=plain.text_encoder)
    return other


def picture(pipe):
    return np.asarray(next(generate(pipe, PROMPT, 1, 0, width=32, height=32))[0]).astype(int)


def test_pictures_are_those_of_the_other_base_with_the_same_edit(two):
    root, config = two
    training = Training(config, make_accelerator(config), progress=False)
    (before,) = training.previews.sample(PROMPT, [0]).values()
    parameters = dict(training.parameters)
    result = training.run()
    (after,) = training.previews.sample(PROMPT, [0]).values()
    other = dense(root, result.path)
    want = picture(other)
    assert np.abs(np.asarray(after).astype(int) - want).max() <= 1
    assert np.abs(np.asarray(before).astype(int) - want).max() > 8
    assert training.parameters == parameters  # which the other base only borrowed
    assert all(p.requires_grad for p in parameters.values())
    held = training.previews.other.loaded.pipe.transformer
    assert not any("svfit" in name for name, _ in held.named_modules())
    (grid,) = (root / "rex" / "validation").iterdir()
    assert Image.open(grid).size[0] >= 32


def test_nothing_of_what_is_learned_depends_on_it(two, tmp_path):
    _, config = two
    given = replace(config, output_dir=str(tmp_path / "rex"))
    plain = train(replace(given, validation_base=None, validation_prompt=None), progress=False)
    seen = train(replace(given, output_dir=str(tmp_path / "max")), progress=False)
    assert np.array_equal(plain.concept.deltas, seen.concept.deltas)


def test_turbo_takes_few_steps(two):
    root, _ = two
    _, made = next(generate(load(root / "z-image-turbo"), PROMPT, width=32, height=32))
    assert (made.steps, made.guidance) == (9, 0.0)


def test_a_base_of_another_layout_is_refused_before_its_weights_are_read(two, tmp_path):
    root, config = two
    save_tiny("sd", tmp_path)
    with pytest.raises(ValueError, match="is of the family 'sd', and the base of a training"):
        train(replace(config, validation_base=str(tmp_path / "base")), progress=False)
    folder = tmp_path / "deeper"
    folder.mkdir()
    (folder / "transformer").mkdir()
    index = (root / "base" / "model_index.json").read_text()
    (folder / "model_index.json").write_text(index)
    settings = json.loads((root / "base" / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps(settings | {"n_layers": 2}))
    with pytest.raises(ValueError, match=r"are not those of the base of this training \(16 and 12"):
        train(replace(config, validation_base=str(folder)), progress=False)
    with pytest.raises(ValueError, match="pass that too"):
        TrainConfig(validation_base="toybox")
