"""backgrounds.py: what the base says is behind the subject, by Toybox on the sample's photos."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.tiny_pipelines import run, same
from PIL import Image

from svfit_diffusion.data.reading import edge_colours
from svfit_diffusion.families import StableDiffusion
from svfit_diffusion.settings import PRESETS, TrainConfig
from svfit_diffusion.training import backgrounds
from svfit_diffusion.training.adapted_base import load_frozen_base
from svfit_diffusion.training.advice import remarks
from svfit_diffusion.training.backgrounds import FAR, PHRASES, _clear, _nearest
from svfit_diffusion.training.fixed_noise import FixedNoise
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.objective import Objective
from svfit_diffusion.training.prompt_encoder import PromptEncoder
from svfit_diffusion.training.subject import encode_subject, read_source, sample_folder

PROMPT = "a photo of sks toy"
# As the sample's README says.
BEHIND = (" on a white background", " on a beige background", " on the grass",
          " on a teal background", " on a blue to pink gradient")  # fmt: skip


def prepared(config):
    """A training whose captions are completed."""
    return Training(config, Accelerator(cpu=True), progress=False)


def unnamed(config):
    """The photos whose captions are to be completed."""
    accelerator = Accelerator(cpu=True)
    base = load_frozen_base(config, accelerator.device)
    source = read_source(config, accelerator)
    return encode_subject(config, accelerator, base, source, progress=False).unnamed


@pytest.fixture(scope="module")
def toy():
    """A training of the sample subject on Toybox, and the captions that it encoded beforehand."""
    encoded, looked_at, fill_cache = [], [], PromptEncoder.fill_cache
    predicted, predict = [], StableDiffusion.predict
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PromptEncoder,
            "fill_cache",
            lambda self, prompts: encoded.append(list(prompts)) or fill_cache(self, encoded[-1]),
        )
        patch.setattr(
            StableDiffusion,
            "predict",
            lambda family, unet, noisy, *rest: (
                predicted.append(len(noisy)) or predict(family, unet, noisy, *rest)
            ),
        )
        config = TrainConfig(offload=True)
        training = Training(
            config, Accelerator(cpu=True), False, on_photo=lambda *now: looked_at.append(now)
        )
    return training, encoded[0], looked_at, sum(predicted)


def test_each_photo_is_announced_before_it_is_looked_at(toy):
    assert toy[2] == [(number, 5) for number in range(1, 6)]


def test_the_base_says_what_is_behind_the_sample(toy):
    captions = toy[0].subject.examples.captions
    assert captions == tuple(PROMPT + phrase for phrase in BEHIND)


def test_the_colour_at_a_photos_edges_needs_to_save_less_than_a_guess():
    """White saves little, as the base draws it without a word."""
    white, bed = " on a white background", " on a bed"
    assert _clear({white: 0.005, bed: 0.001}, white) == white
    assert _clear({white: 0.005, bed: 0.003}, white) == "", "the next one is near"
    assert _clear({white: 0.005, bed: 0.001}, bed) == ""
    assert _clear({white: 0.006, bed: 0.001}, white, FAR) == white
    assert _clear({white: 0.004, bed: 0.001}, white, FAR) == ""
    assert _clear({white: 0.02, bed: 0.001}, bed) == white


def test_it_takes_a_fifth_of_the_trainings_predictions_at_most(toy):
    """A step of four pictures takes about twelve: one, and its gradient twice as much."""
    config, predicted = toy[0].config, toy[3]
    training = 3 * config.train_batch_size * config.max_train_steps
    print(f"{predicted} predictions for {len(BEHIND)} photos, {predicted / training:.1%}")
    assert 30 * len(BEHIND) < predicted <= training / 5


def test_a_class_word_of_another_look_hides_nothing(tmp_path):
    for path in sorted(sample_folder().glob("*.png"))[2:4]:
        shutil.copy(path, tmp_path)
    prompt = "a photo of sks machine"
    config = TrainConfig(instance_prompt=prompt, instance_data_dir=str(tmp_path))
    captions = prepared(config).subject.examples.captions
    assert captions == tuple(prompt + phrase for phrase in BEHIND[2:4])


def test_every_caption_in_question_is_encoded_before_and_only_those_kept_after(toy):
    (training, texts, *_), subject = toy, toy[0].subject
    near = [[_nearest(colour) for colour in found] for found in subject.unnamed.values()]
    gradients = {
        f"on a {a} to {b} gradient"
        for top, bottom in near
        for a in top
        for b in bottom
        if a != b and top[0] != bottom[0]
    }
    colours = {f"on a {name} background" for both in near for names in both for name in names}
    places = [phrase for phrase in PHRASES if not phrase.endswith("background")]
    ends = ("", *(f" {phrase}" for phrase in (*places, *colours, *gradients)))
    forms = PROMPT, "a photo of a thing"
    assert set(texts) == {f"{caption}{end}" for caption in forms for end in ends}
    assert gradients and colours < set(PHRASES)
    assert {PROMPT + phrase for phrase in BEHIND} < set(texts)
    cached = training.prompts.cache
    assert set(cached) == set(subject.examples.captions) and cached


@pytest.mark.parametrize("steps", [1, 10, 60, "auto"])
def test_a_short_training_looks_at_fewer_photos(toy, steps, monkeypatch):
    """Whatever the errors: here no phrase is ever clear, which takes the most predictions."""
    training = toy[0]
    config = replace(training.config, max_train_steps=steps)
    objective = Objective(config, training.accelerator, training.base, training.subject)
    counted = []
    monkeypatch.setattr(
        FixedNoise,
        "errors",
        lambda self, model: torch.ones(
            counted.append(sum(len(part.batch.photos) for part in self.parts)) or counted[-1]
        ),
    )
    found = backgrounds.recognise_backgrounds(objective, training.model, progress=False)
    most = 3 * config.train_batch_size * (200 if steps == "auto" else steps) / 5
    assert found == [""] * 5 and sum(counted) <= max(1, most)
    assert (sum(counted) > 30) == (steps in (60, "auto"))


def test_it_says_beforehand_how_long_it_takes(toy, caplog, monkeypatch):
    training = toy[0]
    monkeypatch.setattr(backgrounds.Search, "best_phrase", lambda *_: len(caplog.records) and "")
    with caplog.at_level("INFO", logger="svfit_diffusion"):
        backgrounds.recognise_backgrounds(training.objective, training.model, progress=False)
    first, last = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(r"backgrounds: at most [23]\d\d predictions, about \d+ s\.", first)
    assert "not named" in last


def test_a_gradient_is_of_the_colours_nearest_to_those_at_the_edges():
    rows = np.linspace((57, 104, 215), (250, 250, 250), 64)[:, None]
    top, bottom = edge_colours(Image.fromarray(np.repeat(rows, 48, axis=1).astype(np.uint8)))
    assert "blue" in _nearest(top) and _nearest(bottom)[0] == "white"


def test_it_says_where_a_background_was_not_recognised(toy):
    base, whole = toy[0].base, toy[0].subject
    subject = replace(whole, backgrounds=("on the grass", "", "at night"))
    found = remarks(TrainConfig(), base, subject)
    assert [t for t in found if "was not recognised on 1 of 3 photos" in t and ".txt" in t]
    for phrases in ((), ("", ""), whole.backgrounds):
        subject = replace(whole, backgrounds=phrases)
        assert not [t for t in remarks(TrainConfig(), base, subject) if "recognised" in t]


def test_it_says_which_captions_do_not_call_the_subject(toy):
    captions = ("a photo of sks toy", "a sksy toy", "a toy, (sks) on grass", "grass", "sks's toy")
    base, whole = toy[0].base, toy[0].subject
    for held, said in ((captions, "2 of 5 captions lack the trigger 'sks'"), (captions[::2], None)):
        subject = replace(whole, examples=replace(whole.examples, captions=held))
        found = [t for t in remarks(TrainConfig(), base, subject) if "lack the trigger" in t]
        assert [text[: len(said)] for text in found] == [said] if said else not found


def test_a_base_that_knows_nothing_names_nothing(config):
    """Random weights predict no noise, whatever the caption says."""
    subject = prepared(replace(config, caption_backgrounds=True)).subject
    assert tuple(subject.unnamed) == (0, 1, 2)
    assert set(subject.examples.captions) == {"a photo of sks dog"}


def test_written_captions_and_masked_photos_are_left_alone(config, photos, tmp_path):
    own = shutil.copytree(photos, tmp_path / "own")
    (own / "1.txt").write_text("sks dog in blue")
    config = replace(config, instance_data_dir=str(own))
    assert tuple(unnamed(replace(config, caption_backgrounds=True))) == (0, 2)
    assert unnamed(config) == {}
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in own.glob("*.png"):
        Image.new("L", (40, 32), 255).save(masks / path.name)
    masked = replace(config, caption_backgrounds=True, mask_data_dir=str(masks))
    assert unnamed(masked) == {}


@pytest.fixture
def in_the_snow(monkeypatch):
    """A base whose errors differ by the caption: it sees snow behind every photo. The trainings are
    of some steps, a fifth of which would not do.
    """
    monkeypatch.setattr(backgrounds, "SHARE", 100)
    real = FixedNoise.errors

    def errors(self, model):
        (caption,) = {prompt for part in self.parts for prompt in part.prompts}
        return real(self, model) * (0.5 if caption.endswith("in the snow") else 1.0)

    def error(self, model):
        return real(self, model).mean().item()

    monkeypatch.setattr(FixedNoise, "errors", errors)
    monkeypatch.setattr(FixedNoise, "error", error)


def test_a_training_learns_with_the_completed_captions(config, in_the_snow):
    changed = replace(config, caption_backgrounds=True)
    training = Training(changed, Accelerator(cpu=True), progress=False)
    assert set(training.subject.examples.captions) == {"a photo of sks dog in the snow"}
    named = run(config, caption_backgrounds=True).concept
    assert not np.array_equal(named.deltas, run(config).concept.deltas)


def test_a_resumed_training_remembers_what_it_recognised(
    config, in_the_snow, monkeypatch, photos, tmp_path
):
    """It tries the phrases again only where the photos are others."""
    config = replace(config, caption_backgrounds=True, max_train_steps=4)
    whole = run(replace(config, output_dir=f"{config.output_dir}-whole")).concept
    run(config, max_train_steps=2)
    again = replace(config, resume_from_checkpoint="latest")
    with monkeypatch.context() as blind:
        blind.setattr(backgrounds.Search, "best_phrase", None)
        training = Training(again, Accelerator(cpu=True), progress=False)
        assert set(training.subject.examples.captions) == {"a photo of sks dog in the snow"}
        assert same(run(again).concept, whole)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    shutil.copy(photos / "0.png", fewer)
    training = Training(
        replace(again, instance_data_dir=str(fewer)), Accelerator(cpu=True), progress=False
    )
    assert training.subject.examples.captions == ("a photo of sks dog in the snow",)


def test_on_other_bases_than_toybox_it_is_to_be_asked_for(config):
    """How clear an answer must be was chosen on Toybox. The paper's preset never asks."""
    assert TrainConfig().names_backgrounds
    assert not TrainConfig(**PRESETS["paper"]).names_backgrounds
    assert not TrainConfig(caption_backgrounds=False).names_backgrounds
    other = replace(config, caption_backgrounds=None)
    assert not other.names_backgrounds and unnamed(other) == {}
    assert tuple(unnamed(replace(config, caption_backgrounds=True))) == (0, 1, 2)
