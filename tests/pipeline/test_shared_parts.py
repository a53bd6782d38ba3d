"""A concept is heard and read wherever the pipeline's parts are used: other pipelines, copies."""

import copy
import pickle
import threading

import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)
from helpers.tiny_pipelines import load, make_concept, make_xl_pipeline, picture

from svfit_diffusion.families import recognise
from svfit_diffusion.generation.sampling import generate
from svfit_diffusion.pipeline.attached import loaded_concepts
from svfit_diffusion.pipeline.loading import (
    load_concept,
    remove_concept,
    set_concepts,
    swap_concept,
)


class Mine(StableDiffusionPipeline):
    """A pipeline that somebody derived."""


def parts_of(pipe):
    return StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)


def pickled(pipe):
    return pickle.loads(pickle.dumps(pipe))


def prompt_states(pipe, prompt="a photo of sks dog"):
    """What a pipeline's own prompt encoding gives."""
    return pipe.encode_prompt(prompt, "cpu", 1, False)[0]


@pytest.mark.parametrize("other", [StableDiffusionPipeline.from_pipe, parts_of, copy.deepcopy,
                                   pickled, Mine.from_pipe])  # fmt: skip
def test_another_pipeline_of_the_same_parts_makes_the_same_picture(pipe, other):
    base = picture(pipe)
    load_concept(pipe, make_concept(pipe), name="rex", strength=0.8)
    wanted, made = picture(pipe), other(pipe)
    made.set_progress_bar_config(disable=True)
    assert torch.equal(picture(made), wanted) and not torch.equal(wanted, base)
    assert loaded_concepts(made)["rex"].strength == 0.8
    set_concepts(made, {})
    assert torch.equal(picture(made), base)
    shared = made.unet is pipe.unet
    assert torch.equal(picture(pipe), base if shared else wanted)
    assert loaded_concepts(pipe)["rex"].strength == (0 if shared else 0.8)
    remove_concept(made, "rex")
    assert torch.equal(picture(made), base)


@pytest.mark.parametrize("kind", [AutoPipelineForImage2Image, AutoPipelineForInpainting])
def test_pipelines_of_other_tasks_hear_the_word(pipe, kind):
    load_concept(pipe, make_concept(pipe), name="rex")
    made = kind.from_pipe(pipe)
    assert torch.equal(prompt_states(made), prompt_states(pipe))
    assert set(loaded_concepts(made)) == {"rex"}


def controlled(pipe):
    control = ControlNetModel.from_unet(pipe.unet)
    return StableDiffusionControlNetPipeline(
        **pipe.components, controlnet=control, requires_safety_checker=False
    )


def image_to_image(pipe):
    return StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)


@pytest.mark.parametrize("other", [controlled, image_to_image, Mine.from_pipe])
def test_loading_onto_pipelines_of_other_classes(pipe, base_folder, other):
    """Oracle: the same concept on the plain pipeline."""
    concept, made = make_concept(pipe), other(load(base_folder))
    load_concept(made, concept, name="rex", strength=0.7)
    load_concept(pipe, concept, strength=0.7)
    assert torch.equal(picture(parts_of_plain(made)), picture(pipe))
    assert torch.equal(prompt_states(made), prompt_states(pipe))


def parts_of_plain(pipe):
    parts = {key: value for key, value in pipe.components.items() if key != "controlnet"}
    made = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def test_families_are_recognised_by_their_models_and_foreign_ones_refused(pipe):
    class Community:
        unet, text_encoder = pipe.unet, pipe.text_encoder

    assert recognise(Community()).name == "sd"
    Community.text_encoder_3 = None
    with pytest.raises(ValueError, match="Community is not supported"):
        recognise(Community())
    del Community.text_encoder_3
    xl = make_xl_pipeline()
    Community.text_encoder, Community.text_encoder_2, Community.unet = (
        *(xl.text_encoder, xl.text_encoder_2),
        torch.compile(xl.unet, backend="eager"),
    )
    assert recognise(Community()).name == "sdxl"
    Community.unet = xl.vae
    with pytest.raises(ValueError, match="not supported"):
        recognise(Community())


def test_two_pipelines_that_share_parts_keep_one_book(pipe, base_folder):
    """The second concept joins the first; both pipelines see both."""
    one, two = make_concept(pipe, seed=1), make_concept(pipe, seed=2, token="zwx")
    other = parts_of_plain(pipe)
    load_concept(pipe, one, name="rex", strength=0.6)
    load_concept(other, two, name="mug", strength=0.9)
    fresh = load(base_folder)
    load_concept(fresh, one, name="rex", strength=0.6)
    load_concept(fresh, two, name="mug", strength=0.9)
    for held in (pipe, other):
        found = {name: entry.strength for name, entry in loaded_concepts(held).items()}
        assert found == {"rex": 0.6, "mug": 0.9}
        for prompt in ("a photo of sks dog", "a zwx dog"):
            assert torch.equal(picture(held, prompt), picture(fresh, prompt))
    swap_concept(other, "rex", make_concept(load(base_folder), seed=3))
    assert torch.equal(picture(pipe), picture(other))


def test_a_copy_of_one_part_is_whole_by_itself(pipe):
    load_concept(pipe, make_concept(pipe), name="rex")
    wanted = picture(pipe)
    pipe.unet = copy.deepcopy(pipe.unet)
    tokenizer = copy.deepcopy(pipe.tokenizer)
    assert torch.equal(picture(pipe), wanted)
    assert tokenizer("a sks dog").input_ids == pipe.tokenizer("a sks dog").input_ids


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder", "unet"])
def test_a_part_replaced_by_hand_is_noticed(pipe, base_folder, part):
    concept, fresh = make_concept(pipe), load(base_folder)
    load_concept(pipe, concept, name="rex")
    load_concept(fresh, concept)
    setattr(pipe, part, getattr(load(base_folder), part))
    said = f"'rex' is on this pipeline only in part.*{part}"
    with pytest.raises(ValueError, match=said):
        set_concepts(pipe, {"rex": 1})
    with pytest.raises(ValueError, match=said):
        swap_concept(pipe, "rex", concept)
    if part == "tokenizer":
        with pytest.raises(ValueError, match=said):
            next(generate(pipe, "a photo of sks dog", steps=1))
    remove_concept(pipe, "rex")
    load_concept(pipe, concept, name="rex")
    assert torch.equal(picture(pipe), picture(fresh))


def test_threads_take_turns(pipe, base_folder):
    concepts = {f"c{i}": make_concept(pipe, seed=i, token=f"zw{c}") for i, c in enumerate("abcd")}
    failed = []

    def work(name, concept):
        try:
            load_concept(pipe, concept, name=name, strength=0.5)
            swap_concept(pipe, name, concept)
        except Exception as error:  # noqa: BLE001, shown by the assertion
            failed.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in concepts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    fresh = load(base_folder)
    for name in loaded_concepts(pipe):
        load_concept(fresh, concepts[name], name=name, strength=0.5)
    assert set(loaded_concepts(pipe)) == set(concepts)
    assert torch.equal(picture(pipe, "zwb dog"), picture(fresh, "zwb dog"))
