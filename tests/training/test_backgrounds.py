"""backgrounds.py: what the base says is behind the subject, by Toybox on the sample's photos."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.tiny_pipelines import run, same
from PIL import Image

from svfit_diffusion.data.reading import edge_colours
from svfit_diffusion.settings import PRESETS, TrainConfig
from svfit_diffusion.training.advice import remarks
from svfit_diffusion.training.backgrounds import PHRASES, _nearest, name_backgrounds, tried
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.objective import Denoiser, Objective
from svfit_diffusion.training.subject import prepare_subject, sample_folder

PROMPT = "a photo of sks toy"
# As the sample's README says.
BEHIND = (" on a white background", " on a beige background", " on the grass",
          " on a teal background", " on a blue to pink gradient")  # fmt: skip


def prepared(config):
    subject = prepare_subject(config, Accelerator(cpu=True), progress=False)
    return subject, Objective(config, Accelerator(cpu=True), subject)


@pytest.fixture(scope="module")
def toy():
    """The sample subject on Toybox, its backgrounds named."""
    subject, objective = prepared(TrainConfig())
    texts = tried(subject)
    subject.rest(torch.device("cpu"), texts)
    name_backgrounds(objective, Denoiser(subject), progress=False)
    return subject, texts


def test_the_base_tells_what_is_behind_the_sample(toy):
    assert toy[0].examples.captions == tuple(PROMPT + phrase for phrase in BEHIND)


def test_a_class_word_of_another_look_hides_nothing(tmp_path):
    for path in sorted(sample_folder().glob("*.png"))[2:4]:
        shutil.copy(path, tmp_path)
    prompt = "a photo of sks machine"
    config = TrainConfig(instance_prompt=prompt, instance_data_dir=str(tmp_path))
    subject, objective = prepared(config)
    name_backgrounds(objective, Denoiser(subject), progress=False)
    assert subject.examples.captions == tuple(prompt + phrase for phrase in BEHIND[2:4])


def test_every_caption_in_question_is_known_before_and_only_those_kept_after(toy):
    subject, texts = toy
    near = [[_nearest(colour) for colour in found] for found in subject.unnamed.values()]
    gradients = {
        f"on a {a} to {b} gradient" for top, bottom in near for a in top for b in bottom if a != b
    }
    ends = ("", *(f" {phrase}" for phrase in (*PHRASES, *gradients)))
    forms = PROMPT, "a photo of a thing"
    assert set(texts) == {f"{caption}{end}" for caption in forms for end in ends}
    assert {PROMPT + phrase for phrase in BEHIND} < set(texts)
    assert set(subject.cached) == set(subject.examples.captions) and subject.cached


def test_a_gradient_is_of_the_colours_nearest_to_those_at_the_edges():
    rows = np.linspace((57, 104, 215), (250, 250, 250), 64)[:, None]
    top, bottom = edge_colours(Image.fromarray(np.repeat(rows, 48, axis=1).astype(np.uint8)))
    assert "blue" in _nearest(top) and _nearest(bottom)[0] == "white"


def test_it_says_where_a_background_was_not_recognised(toy):
    subject = replace(toy[0], backgrounds=("on the grass", "", "at night"))
    told = remarks(TrainConfig(), subject)
    assert [t for t in told if "was not recognised on 1 of 3 photos" in t and ".txt" in t]
    for found in ((), ("", ""), toy[0].backgrounds):
        subject = replace(toy[0], backgrounds=found)
        assert not [t for t in remarks(TrainConfig(), subject) if "recognised" in t]


def test_it_says_which_captions_do_not_call_the_subject(toy):
    captions = ("a photo of sks toy", "a sksy toy", "a toy, (sks) on grass", "grass", "sks's toy")
    for held, said in ((captions, "2 of 5 captions lack the trigger 'sks'"), (captions[::2], None)):
        subject = replace(toy[0], examples=replace(toy[0].examples, captions=held))
        told = [text for text in remarks(TrainConfig(), subject) if "lack the trigger" in text]
        assert [text[: len(said)] for text in told] == [said] if said else not told


def test_a_base_that_knows_nothing_names_nothing(config):
    """Random weights foretell no noise, whatever the caption says."""
    subject, objective = prepared(replace(config, caption_backgrounds=True))
    assert tuple(subject.unnamed) == (0, 1, 2)
    name_backgrounds(objective, Denoiser(subject), progress=False)
    assert set(subject.examples.captions) == {"a photo of sks dog"}


def test_written_captions_and_masked_photos_are_left_alone(config, photos, tmp_path):
    own = shutil.copytree(photos, tmp_path / "own")
    (own / "1.txt").write_text("sks dog in blue")
    config = replace(config, instance_data_dir=str(own))
    named = prepared(replace(config, caption_backgrounds=True))[0].unnamed
    assert tuple(named) == (0, 2)
    assert prepared(config)[0].unnamed == {}
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in own.glob("*.png"):
        Image.new("L", (40, 32), 255).save(masks / path.name)
    masked = replace(config, caption_backgrounds=True, mask_data_dir=str(masks))
    assert prepared(masked)[0].unnamed == {}


@pytest.fixture
def in_the_snow(monkeypatch):
    """A base that is told apart by its words: it sees snow behind every photo."""
    real = Objective.errors

    def errors(self, model, parts):
        caption, found = parts[0][1].captions[0], real(self, model, parts)
        return found * (0.5 if caption.endswith("in the snow") else 1.0)

    monkeypatch.setattr(Objective, "errors", errors)


def test_a_training_learns_with_the_completed_captions(config, in_the_snow):
    changed = replace(config, caption_backgrounds=True)
    training = Training(changed, Accelerator(cpu=True), progress=False)
    assert set(training.subject.examples.captions) == {"a photo of sks dog in the snow"}
    named = run(config, caption_backgrounds=True).concept
    assert not np.array_equal(named.deltas, run(config).concept.deltas)


def test_a_resumed_training_remembers_what_it_saw(
    config, in_the_snow, monkeypatch, photos, tmp_path
):
    """It looks again only where the photos are others."""
    config = replace(config, caption_backgrounds=True, max_train_steps=4)
    whole = run(replace(config, output_dir=f"{config.output_dir}-whole")).concept
    run(config, max_train_steps=2)
    again = replace(config, resume_from_checkpoint="latest")
    with monkeypatch.context() as blind:
        blind.setattr(Objective, "errors", None)
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


def test_the_papers_preset_has_one_caption_for_all():
    assert TrainConfig().caption_backgrounds and not PRESETS["paper"]["caption_backgrounds"]
