"""precision.py, and what is done in which precision while a base is trained."""

import contextlib
import copy
import logging
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from helpers.tiny_families import save_tiny
from helpers.tiny_pipelines import load, run
from PIL import Image

from svfit_diffusion.concept.packing import round_to_four_bits, round_vector
from svfit_diffusion.families import family_named
from svfit_diffusion.generation import check_picture, own_precision, without_overflow
from svfit_diffusion.training import dry_run
from svfit_diffusion.training.launcher import PRECISION, launched
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.precision import check_precision
from svfit_diffusion.training.runtime import make_accelerator, own_accelerate_state


@pytest.mark.parametrize(
    ("kind", "quantize", "gpu", "precision"),
    [
        ("flux", None, True, "bf16"),
        ("z-image", None, True, "bf16"),
        ("sdxl", None, True, "no"),
        ("flux", None, False, "no"),
        ("sd", "int8", False, "bf16"),
    ],
)
def test_the_precision_is_the_bases_where_nobody_names_one(
    config, tmp_path, monkeypatch, kind, quantize, gpu, precision
):
    """bf16 for what was published in it, on a GPU; the base's index alone is read."""
    monkeypatch.delenv(PRECISION, raising=False)
    save_tiny(kind, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    base = str(tmp_path / "base")
    given = replace(config, pretrained_model_name_or_path=base, quantize=quantize)
    assert launched(given).mixed_precision == precision
    assert launched(replace(given, mixed_precision="no")).mixed_precision == "no"


@pytest.mark.parametrize(
    ("pipeline", "precision", "quantize", "reason"),
    [
        ("FluxPipeline", "fp16", None, "family flux are published in bfloat16 and overflow"),
        ("Flux2Pipeline", "fp16", None, "pass --mixed_precision bf16"),
        ("ZImagePipeline", "fp16", None, "family z-image"),
        ("FluxPipeline", "no", "4bit", "would compute in float32"),
        ("FluxPipeline", "bf16", "4bit", None),
        ("StableDiffusionXLPipeline", "fp16", None, None),
        ("StableDiffusionPipeline", "no", "int8", None),
    ],
)
def test_what_cannot_work_is_refused(config, pipeline, precision, quantize, reason):
    given = replace(config, mixed_precision=precision, quantize=quantize)
    refused = pytest.raises(ValueError, match=reason) if reason else contextlib.nullcontext()
    with refused:
        check_precision(given, family_named(pipeline))


def test_it_is_refused_before_the_weights_are_read(config, tmp_path):
    save_tiny("flux", tmp_path)
    for path in (tmp_path / "base").rglob("*.safetensors"):
        path.write_bytes(b"no weights")
    given = replace(config, pretrained_model_name_or_path=str(tmp_path / "base"), quantize="4bit")
    with pytest.raises(ValueError, match="would compute in float32"):
        dry_run(replace(given, mixed_precision="no"))


def spied(training, seen):
    """Note the precision in which the VAE's last convolution gives its pixels."""
    last = training.base.pipe.vae.decoder.conv_out
    last.register_forward_hook(lambda _, __, output: seen.append(output.dtype))


def test_the_vae_decodes_in_float32_beside_a_base_in_half_precision(config, monkeypatch):
    """Validation and class images: autocast would have its convolutions give half precision."""
    seen = []
    given = replace(config, mixed_precision="bf16", validation_prompt="sks dog")
    given = replace(given, num_validation_images=1)
    with own_accelerate_state():
        training = Training(given, make_accelerator(given), progress=False)
        spied(training, seen)
        training.previews.validate(1)
        with training.accelerator.autocast():
            training.previews.validate(2)
    assert seen == [torch.float32] * 2 and training.base.pipe.unet.dtype == torch.bfloat16
    assert "decode" not in vars(training.base.pipe.vae)
    folder = Path(config.output_dir) / "validation"
    assert len(list(folder.iterdir())) == 2


def test_class_images_are_decoded_in_float32(config, tmp_path, monkeypatch):
    from diffusers.models.autoencoders.vae import Decoder

    seen, forward = [], Decoder.forward

    def noted(self, *given):
        output = forward(self, *given)
        seen.append(output.dtype)
        return output

    monkeypatch.setattr(Decoder, "forward", noted)
    prior = {"with_prior_preservation": True, "class_data_dir": str(tmp_path / "class")}
    run(config, **prior, num_class_images=2, mixed_precision="bf16", max_train_steps=1)
    assert set(seen) == {torch.float32} and len(list((tmp_path / "class").iterdir())) == 2


BROKEN = {
    "not finite": lambda layer: layer.weight.data.fill_(torch.inf),
    "of one colour, RGB (128, 128, 128)": lambda layer: layer.weight.data.zero_(),
}


@pytest.fixture(params=BROKEN)
def broken_base(request, base_folder, tmp_path):
    """A base whose VAE decodes to nothing that is a picture, and the words for it."""
    pipe = load(base_folder)
    BROKEN[request.param](pipe.vae.decoder.conv_out)
    pipe.vae.decoder.conv_out.bias.data.zero_()
    pipe.to(torch.float16).save_pretrained(tmp_path / "broken")
    return str(tmp_path / "broken"), request.param


def test_what_is_no_picture_is_not_stored(config, broken_base, tmp_path, caplog):
    base, words = broken_base
    config = replace(config, pretrained_model_name_or_path=base, max_train_steps=2)
    prior = {"with_prior_preservation": True, "class_data_dir": str(tmp_path / "class")}
    with pytest.raises(ValueError) as error:
        run(config, **prior, num_class_images=2)
    assert words in str(error.value) and "which is not stored" in str(error.value)
    assert not list((tmp_path / "class").iterdir())
    shown = {"validation_prompt": "sks dog", "validation_steps": 1, "num_validation_images": 2}
    with caplog.at_level(logging.WARNING):
        result = run(config, **shown)
    assert result.steps == 2 and caplog.text.count(words) == 4
    assert not (Path(config.output_dir) / "validation").exists()


def test_a_class_image_of_one_colour_from_before_is_refused(config, tmp_path):
    prior = {"with_prior_preservation": True, "class_data_dir": str(tmp_path / "class")}
    run(config, **prior, num_class_images=1, max_train_steps=1)
    (path,) = (tmp_path / "class").iterdir()
    with Image.open(path) as image:
        from PIL.PngImagePlugin import PngInfo

        told = PngInfo()
        for key, text in image.text.items():
            told.add_text(key, text)
    Image.new("RGB", (32, 32)).save(path, pnginfo=told)
    with pytest.raises(ValueError, match="class-00000.png is of one colour.*delete it"):
        run(config, **prior, num_class_images=1)
    check_picture(Image.effect_noise((8, 8), 50))


def test_a_decoder_of_half_precision_keeps_its_own(pipe):
    """own_precision is that of the VAE, not float32."""
    vae = pipe.vae.to(torch.bfloat16)
    with own_precision(vae), torch.autocast("cpu", dtype=torch.float16):
        assert vae.decode(torch.randn(1, 4, 8, 8)).sample.dtype == torch.bfloat16


def test_a_host_programs_accelerator_is_as_it_was(config):
    """accelerate's state is one for all of a process."""
    with own_accelerate_state():
        host = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=3)
        before = copy.copy(vars(AcceleratorState())), copy.copy(vars(GradientState()))
        run(config, max_train_steps=1, mixed_precision="no")
        dry_run(replace(config, mixed_precision="no"))
        assert (vars(AcceleratorState()), vars(GradientState())) == before
        assert host.mixed_precision == "bf16" and host.gradient_accumulation_steps == 3
        assert vars(host.state) == before[0] and host.is_main_process
        layer = host.prepare(torch.nn.Linear(2, 2))
        assert layer(torch.ones(1, 2)).dtype == torch.float32  # accelerate gives float32 back
        with host.autocast():
            assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype == (
                torch.bfloat16
            )


def rounded(parameters):
    """What the file holds: four bits for the deltas of each projection and blocks of vectors."""
    vectors = {name for name in parameters if ".token." in name or name.endswith(".common")}
    return {
        name: torch.from_numpy(
            (round_vector if name in vectors else round_to_four_bits)(value.detach().numpy())
        )
        for name, value in parameters.items()
    }


def test_what_is_shown_and_judged_is_what_the_file_will_hold(config, monkeypatch):
    """Previews and `auto` see the average in four bits; the training goes on with its own."""
    config = replace(config, max_train_steps="auto", learning_rate=0.02)
    training = Training(config, make_accelerator(config), progress=False)
    for _ in range(3):
        training.train_step()
        training.step += 1
    own = {name: p.detach().clone() for name, p in training.parameters.items()}
    wanted, seen = rounded(training.average.values()), []
    assert any(not torch.equal(own[name], wanted[name]) for name in own)

    def noted(*_):
        seen.append({name: p.detach().clone() for name, p in training.parameters.items()})

    training.base.pipe.unet.register_forward_pre_hook(noted)
    training.previews.sample("a photo of sks dog", [0], steps=1)
    training._measure_length()
    assert len(seen) >= 2
    for values in seen:
        assert all(torch.equal(values[name], wanted[name]) for name in wanted)
    assert all(torch.equal(p, own[name]) for name, p in training.parameters.items())
    assert all(torch.equal(training.length.best[name], wanted[name]) for name in wanted)


def test_the_apps_best_state_is_judged_as_it_will_be_written(config, tmp_path):
    from svfit_diffusion.web.studio.reporter import Reporter
    from svfit_diffusion.web.studio.runs import Run

    training = Training(replace(config, max_train_steps=3), make_accelerator(config), False)
    training.train_step()
    training.step, wanted, seen = 1, rounded(training.parameters), []

    def error(model):
        seen.append({n: p.detach().clone() for n, p in training.parameters.items()})
        return 0.5

    training.fixed_noise = types.SimpleNamespace(error=error)
    reporter = Reporter(Run(tmp_path), 3, 0)
    reporter._measure(training)
    for values in (seen[0], reporter.best[1]):
        assert all(np.array_equal(values[name], wanted[name]) for name in wanted)


def test_the_summary_says_where_a_precision_comes_from(config, monkeypatch):
    from svfit_diffusion.training.summary import _precision

    def said(chosen, given=None, quantize=None):
        asked = replace(config, mixed_precision=given, quantize=quantize)
        return _precision(replace(asked, mixed_precision=chosen), asked)

    monkeypatch.delenv(PRECISION, raising=False)
    assert said("bf16") == "bf16 (as the base was published)"
    assert (said("no"), said("fp16", "fp16")) == ("float32", "fp16")
    assert said("bf16", quantize="int8") == "bf16, int8 weights"
    monkeypatch.setenv(PRECISION, "no")
    assert said("no") == "float32 (as the launcher says)"


def test_a_preview_of_a_vae_that_overflows_is_decoded_as_the_picture_is(pipe):
    """As diffusers' SDXL: the VAE says so, and is float16 again afterwards."""
    vae = pipe.vae.to(torch.float16)
    for overflows in (True, False):
        vae.register_to_config(force_upcast=overflows)
        with without_overflow(vae):
            assert vae.dtype == (torch.float32 if overflows else torch.float16)
        assert vae.dtype == torch.float16
