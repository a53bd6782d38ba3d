"""One suite for every family: training, files, pictures, with diffusers as the judge of each."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny_families import TINY, save_tiny, tiny_config
from helpers.tiny_pipelines import load as load_trainable
from helpers.tiny_pipelines import make_concept, picture
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file

from svfit_diffusion.adapter.attention import find_projections, layout
from svfit_diffusion.concept.file import read_concept
from svfit_diffusion.data.examples import sample_batch
from svfit_diffusion.families import recognise
from svfit_diffusion.generation.sampling import generate
from svfit_diffusion.pipeline.loading import (
    load_concept,
    loaded_concepts,
    remove_concept,
    set_concepts,
)
from svfit_diffusion.sharing.lora_export import export_lora
from svfit_diffusion.training.loop import Training, train
from svfit_diffusion.training.runtime import make_accelerator

PLAIN = {"to_q", "to_k", "to_v", "to_out.0"}
MMDIT = PLAIN | {"add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"}
PATCHED = {  # the ends of the denoiser's projections; all others have the plain four
    "sd3": MMDIT,
    "flux": MMDIT,
    "flux2": MMDIT | {"to_qkv_mlp_proj", "to_out"},
    "flux2-klein": MMDIT | {"to_qkv_mlp_proj", "to_out"},
    "qwen-image": MMDIT,
    "chroma": MMDIT,
    "auraflow": MMDIT,
    "hidream": {*["to_q", "to_k", "to_v", "to_out", "to_q_t", "to_k_t", "to_v_t", "to_out_t"]},
}
PROMPT = "sks dog and zwx mug"
T5_READS = {"sd3": ["prompt_3"], "flux": ["prompt_2"]}  # which learns no embedding


@pytest.fixture(scope="module", params=TINY)
def family(request, tmp_path_factory):
    """A family's base in a folder, as it is published, and a concept trained on it: everything on,
    with prior preservation and a checkpoint after each of three steps.
    """
    root = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, root)
    config = tiny_config(
        root,
        max_train_steps=3,
        with_prior_preservation=True,
        class_data_dir=str(root / "class"),
        num_class_images=1,
        checkpointing_steps=1,
    )
    training = Training(config, make_accelerator(config), progress=False)
    plain = drawn(training.base.pipe, "a dog")  # before a step: patched, and all deltas 0
    result = training.run()
    return SimpleNamespace(
        base=root / "base", config=config, training=training, result=result, plain=plain
    )


def load(folder):
    """A frozen pipeline, as a concept or a training leaves it: with weights that want a gradient
    torch adds up Krea 2's mean over layers in another order, be there a gradient or not.
    """
    pipe = load_trainable(folder)
    getattr(pipe, recognise(pipe).denoiser).requires_grad_(False)
    return pipe


@torch.no_grad()
def drawn(pipe, prompt=PROMPT, **more):
    return picture(pipe, prompt, width=32, height=32, **more)


def test_three_steps_lower_the_loss_on_fixed_noise(family):
    result, ours = family.result, family.training.base.family
    assert result.loss_after < result.loss_before and not result.stopped
    concept, encoders = read_concept(result.path), {part for _, part in ours.encoders}
    assert concept.family == ours.name and concept.deltas.any()
    assert set(concept.targets) == {ours.denoiser, *encoders}
    outputs = ours.outputs(family.training.base.pipe)  # where the others learn the word
    assert set(concept.rows()) == {*encoders, *outputs} and set(concept.outputs) == {*outputs}
    (image,) = (family.base.parent / "class").iterdir()
    assert Image.open(image).size == (32, 32)


def test_what_is_patched(family):
    """Every attention of the denoiser, both of its streams, and nothing else."""
    base = family.training.base
    model, name = getattr(base.pipe, base.family.denoiser), base.family.name
    held = find_projections(model)
    assert {end_of(n) for n in held} == PATCHED.get(name, PLAIN)
    attention = {n.rsplit(".to_q", 1)[0] for n, _ in model.named_modules() if n.endswith("to_q")}
    assert {n.removesuffix(f".{end_of(n)}") for n in held} >= attention


def end_of(name):
    """The last part of a projection's name, with the number of a list."""
    *_, last, end = name.split(".")
    return f"{last}.{end}" if end.isdigit() else end


def test_delta_zero_is_the_base(family):
    assert torch.equal(family.plain, drawn(load(family.base), "a dog"))


def test_save_load_generate_and_remove(family):
    """A new pipeline generates the same as the trained one, to the last bit on one machine."""
    mine, fresh = drawn(family.training.base.pipe), load(family.base)
    before = drawn(fresh)
    name = load_concept(fresh, family.result.path)
    assert torch.equal(drawn(fresh), mine) and not torch.equal(before, mine)
    seen = []
    image, made = next(
        generate(fresh, PROMPT, watch=lambda *s: seen.append(s), steps=2, width=32, height=32)
    )
    assert image.size == (32, 32) and made.concepts == ((name, 1.0),)
    with torch.no_grad():  # what is shown meanwhile is, after the last step, the picture
        pixels = recognise(fresh).decode(fresh.vae, seen[-1][1])
        last = fresh.image_processor.postprocess(pixels)[0]
    assert len(seen) == 2 and np.array_equal(np.array(last), np.array(image))
    embedded = family.result.concept.without_outputs().learned
    rows = max((len(r) for call in family.result.concept.all_triggers()
                for r in call.rows.values()), default=0)  # fmt: skip
    limit = PROMPT.replace("sks", " ".join(["dog"] * rows)) if embedded else PROMPT
    set_concepts(fresh, {name: 0.0})
    typed = T5_READS.get(family.training.base.family.name, ())
    assert torch.equal(
        drawn(fresh), drawn(load(family.base), limit, **dict.fromkeys(typed, PROMPT))
    )
    set_concepts(fresh, {})
    assert torch.equal(drawn(fresh), before)
    remove_concept(fresh, name)
    assert torch.equal(drawn(fresh), before)


def test_text_encoders_off_and_two_concepts(family, tmp_path):
    """Two at once are neither of them alone; taken off again, they leave the base."""
    config = replace(
        family.config,
        train_text_encoder=False,
        train_token=False,
        with_prior_preservation=False,
        instance_prompt="a photo of zwx mug",
        output_dir=str(tmp_path / "max"),
    )
    second = train(config, progress=False)
    assert set(second.concept.targets) == {family.training.base.family.denoiser}
    assert second.concept.trigger_rows is None and second.loss_after < second.loss_before
    pipe = load(family.base)
    base = drawn(pipe)
    load_concept(pipe, family.result.path)
    one = drawn(pipe)
    load_concept(pipe, second.path)
    assert not torch.equal(drawn(pipe), one)
    set_concepts(pipe, {"rex": 1.0})
    assert torch.equal(drawn(pipe), one) and not torch.equal(one, base)
    for name in list(loaded_concepts(pipe)):
        remove_concept(pipe, name)
    assert torch.equal(drawn(pipe), base)


def test_stop_and_resume_is_as_if_never_stopped(family, tmp_path):
    shutil.copytree(f"{family.config.output_dir}/checkpoint-2", tmp_path / "rex" / "checkpoint-2")
    config = replace(
        family.config, output_dir=str(tmp_path / "rex"), resume_from_checkpoint="latest"
    )
    resumed = train(config, progress=False)
    assert np.array_equal(family.result.concept.deltas, resumed.concept.deltas)
    assert resumed.loss_after == family.result.loss_after


def test_diffusers_loads_the_exported_lora(family, tmp_path):
    """By its own loader, onto every projection, with the same pictures as the concept."""
    concept = replace(family.result.concept, trigger_rows=None, trigger_shape={}, outputs={})
    ours, lora = load(family.base), load(family.base)
    base = drawn(ours, "a dog")
    export_lora(concept, ours, tmp_path / "lora.safetensors", "diffusers", "float32")
    read_lora(lora, tmp_path / "lora.safetensors")
    load_concept(ours, concept)
    kind = recognise(lora)
    places = [
        name
        for part in concept.targets
        for name, _ in getattr(lora, part).named_modules()
        if name.endswith("lora_A.default_0")
    ]
    assert len(places) == len(layout(kind.components(ours), concept.targets))
    want, got = drawn(ours, "a dog"), drawn(lora, "a dog")
    change = (want - base).abs().max()
    assert (want - got).abs().max() < 0.01 * change and change > 0


def read_lora(pipe, path):
    """By the pipeline's loader, its transformer's, or, where diffusers has neither, by peft."""
    if hasattr(pipe, "load_lora_weights"):
        return pipe.load_lora_weights(path)
    model, name = pipe.transformer, "default_0"
    if hasattr(model, "load_lora_adapter"):
        return model.load_lora_adapter(path, prefix="transformer", adapter_name=name)
    held = {key.removeprefix("transformer."): value for key, value in load_file(path).items()}
    names = {key.rpartition(".lora_")[0] for key in held}
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=names), model, name)
    return set_peft_model_state_dict(model, held, name)


def test_another_familys_concept_is_refused(family, base_folder):
    pipe, concept = load(family.base), make_concept(load(base_folder))
    own = recognise(pipe).name
    concept = replace(concept, family="flux") if own == "sd" else concept
    with pytest.raises(ValueError, match=f"of family '{concept.family}', .* of family '{own}'"):
        load_concept(pipe, concept)
    assert not loaded_concepts(pipe)


def test_time_steps_repeat_and_reach_from_first_to_last(family):
    kind, examples = family.training.base.family, family.training.subject.examples
    config = replace(family.config, resolution=512)

    def steps():
        def time(random):
            return kind.sample_timestep(random, 1000, config)

        return sample_batch(examples, 0, range(0, 200, 2), 1000, time=time).steps

    assert torch.equal(steps(), steps())
    assert 0 <= steps().min() < 200 and 800 < steps().max() < 1000
