"""Bases in fewer bits, and bases that do not fit a GPU's memory. No GPU is asked for: accelerate's
hooks run on the CPU, and so do torchao's real int8 weights where `.[quantized]` is installed.
"""

import importlib.metadata
from dataclasses import replace
from importlib.util import find_spec

import diffusers
import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload
from helpers.tiny_families import all_targets, save_tiny, tiny_config
from helpers.tiny_pipelines import load, make_concept, picture
from helpers.trainings import empty_idle
from torch import nn

from svfit_diffusion.families import FIRST, SECOND, THIRD, family_named, load_base, recognise
from svfit_diffusion.families import quantization as quantized
from svfit_diffusion.generation.sampling import generate
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.pipeline.offloading import offload
from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training.loop import Training, train
from svfit_diffusion.training.runtime import make_accelerator


@pytest.fixture(scope="module", params=["sd3", "flux", "flux2-klein"])
def config(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, root)
    return tiny_config(root, max_train_steps=2)


@pytest.fixture
def have(monkeypatch):
    """As if bitsandbytes were installed; its configuration classes are the real ones."""
    own = importlib.metadata.version
    monkeypatch.setattr(quantized, "find_spec", lambda name: object())
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.50" if name == "bitsandbytes" else own(name)
    )


@pytest.mark.parametrize("kind", ["FluxPipeline", "StableDiffusion3Pipeline", "Flux2Pipeline"])
def test_the_denoiser_and_the_readers_are_quantised(have, kind):
    family = family_named(kind)
    mapping = quantized.quantization("4bit", family, torch.bfloat16).quant_mapping
    assert set(mapping) == {
        family.denoiser,
        *(encoder for _, encoder in family.frozen_text_encoders),
    }
    for part, settings in mapping.items():
        assert settings.load_in_4bit and settings.bnb_4bit_quant_type == "nf4"
        assert settings.bnb_4bit_compute_dtype == torch.bfloat16
        library = "diffusers" if part == family.denoiser else "transformers"
        assert type(settings).__module__.startswith(library)


def test_diffusers_is_told_of_it(have, config, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        diffusers.DiffusionPipeline, "from_pretrained", lambda base, **options: seen.update(options)
    )
    load_base(config.pretrained_model_name_or_path, torch.bfloat16, quantize="4bit")
    assert "transformer" in seen["quantization_config"].quant_mapping


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_what_is_missing_is_named(base_folder):
    with pytest.raises(ValueError, match="quantize 4bit needs bitsandbytes; run `pip install"):
        load_base(str(base_folder), quantize="4bit")


def test_quantize_where_it_cannot_be(base_folder, tmp_path):
    with pytest.raises(ValueError, match="reads a diffusers folder or a Hub id"):
        load_base("toybox", quantize="int8")
    with pytest.raises(ValueError, match="must be one of 4bit, int8"):
        load_base(str(base_folder), quantize="3bit")
    with pytest.raises(ValueError, match="quantize is '3bit'"):
        TrainConfig(quantize="3bit")


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
def test_int8_weights_train_and_share(config, tmp_path):
    """A concept learned on int8 weights fits the base in any precision: its basis is the files'."""
    config = replace(
        config, output_dir=str(tmp_path / "rex"), quantize="int8", mixed_precision="bf16"
    )
    result = train(config, progress=False)
    assert result.loss_after < result.loss_before
    load_concept(load(config.pretrained_model_name_or_path), result.path)


def test_offloaded_encoders_read_each_prompt_once(config, tmp_path):
    """With `offload`, all prompts are read before the first step, and no step needs a reader or the
    VAE: their weights are really gone, to the device that holds none.
    """
    config = replace(config, output_dir=str(tmp_path / "rex"), train_text_encoder=False,
                     train_token=False)  # fmt: skip
    plain = train(config, progress=False)
    training = Training(replace(config, offload=True), make_accelerator(config), progress=False)
    base = training.base
    idle = empty_idle(training)
    assert {p.device.type for model in idle for p in model.parameters()} == {"meta"}
    assert {p.device.type for p in base.pipe.transformer.parameters()} == {"cpu"}
    result = training.run()
    assert (result.concept.deltas == plain.concept.deltas).all()


def test_class_images_of_a_base_in_bfloat16(config, tmp_path):
    """The base is cast and its VAE is not: drawing with both must go on."""
    result = train(
        replace(config, output_dir=str(tmp_path / "rex"), mixed_precision="bf16", max_train_steps=1,
                with_prior_preservation=True, class_data_dir=str(tmp_path / "class"),
                num_class_images=1),
        progress=False,
    )  # fmt: skip
    assert len(list((tmp_path / "class").iterdir())) == 1 and result.concept.deltas.any()


def test_previews_have_one_model_on_the_device_at_a_time(config, tmp_path, monkeypatch):
    """accelerate's hooks send each model away as the next one begins; afterwards none is left, what
    is trained is the same parameters, and the picture is the one without offloading.
    """
    config = replace(config, output_dir=str(tmp_path / "rex"))
    plain = Training(config, make_accelerator(config), progress=False)
    wanted = plain.previews.sample("a photo of sks dog", [0], 1)
    training = Training(replace(config, offload=True), make_accelerator(config), progress=False)
    base, events = training.base, []
    models = {**base.family.components(base.pipe), **base.family.text_models(base.pipe)}
    models["vae"] = base.pipe.vae
    parameters, names = dict(training.parameters), {id(m): name for name, m in models.items()}
    comes = CpuOffload.pre_forward

    def here(hook, module, *arguments, **more):
        before = hook.prev_module_hook
        events.append((names[id(module)], before and names[id(before.model)]))
        return comes(hook, module, *arguments, **more)

    monkeypatch.setattr(CpuOffload, "pre_forward", here)
    made = training.previews.sample("a photo of sks dog", [0], 1)
    assert np.array_equal(np.asarray(made[0]), np.asarray(wanted[0]))
    sent = dict(events)  # what goes away when a model begins to work
    readers = [encoder.model for encoder in (*base.family.encoders, FIRST, SECOND, THIRD)]
    readers = [name for name in dict.fromkeys(readers) if name in models]
    assert sent == dict(zip([*readers, base.family.denoiser, "vae"],
                            [None, *readers, base.family.denoiser], strict=True))  # fmt: skip
    assert not any(hasattr(model, "_hf_hook") for model in models.values())
    assert all(p is parameters[name] for name, p in base.parameters().items())


def test_captions_wait_in_main_memory(config, tmp_path):
    """The device of a training stands here for one that only tells where something is."""
    config = replace(config, output_dir=str(tmp_path / "rex"))
    encoder = Training(config, make_accelerator(config), progress=False).prompts
    encoder._encode_trained = lambda prompts, constant, device: constant
    encoder.cache.clear()
    found = encoder.encode(["a photo of sks dog"], torch.device("meta"))
    assert found and all(value.is_meta for value in found.values())
    held = [value for kept in encoder.cache.values() for value in kept.values()]
    assert held and all(value.device.type == "cpu" for value in held)


@pytest.mark.parametrize("name", ["sd", "flux", "z-image"])
def test_single_layers_come_and_go_with_their_concept(name, tmp_path):
    """accelerate's hooks, to the CPU: the picture is the same."""
    save_tiny(name, tmp_path)
    pipe, away = load(tmp_path / "base"), load(tmp_path / "base")
    family = recognise(pipe)
    concept = make_concept(pipe, targets=all_targets(pipe), trigger=name == "sd")
    for one in (pipe, away):
        load_concept(one, concept)
    for model in (part for part in away.components.values() if isinstance(part, nn.Module)):
        cpu_offload(model, torch.device("cpu"), offload_buffers=len(model._parameters) > 0)
    weights = [w.device.type for w in getattr(away, family.denoiser).parameters()]
    assert weights.count("meta") > len(weights) / 2
    size = {"width": 32, "height": 32}
    assert torch.allclose(picture(away, **size), picture(pipe, **size), atol=1e-4)
    next(generate(away, "a photo of sks dog", steps=1, **size))


def test_offload_needs_a_gpu(pipe):
    with pytest.raises(ValueError, match="must be one of model, sequential"):
        offload(pipe, "disk")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="there is none; leave it out"):
            offload(pipe, "model")
