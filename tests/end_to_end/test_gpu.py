"""What only a GPU can show: the same pictures and trainings there, halves, quantised bases, loads.

Skipped where there is none. Products on a GPU are summed in another order, so pictures are near one
another, not equal; a concept of these tests moves a picture by some 0.2 % or more.
"""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from accelerate import PartialState
from helpers.tiny_families import TINY, all_targets, save_tiny, tiny_config
from helpers.tiny_pipelines import load, make_concept, picture, run

from svfit_diffusion.families import family_of, load_base, recognise
from svfit_diffusion.pipeline.fusing import fuse_concepts
from svfit_diffusion.pipeline.loading import load_concept, set_concepts
from svfit_diffusion.pipeline.offloading import offload
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.runtime import make_accelerator
from svfit_diffusion.web.studio.shared_pipeline import SharedPipeline

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
FAMILIES = sorted(TINY)
SIZE = {"width": 32, "height": 32}


@pytest.fixture(autouse=True)
def whole_floats(monkeypatch):
    """PyTorch lets convolutions round to TF32 unless it is told not to."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def near(one, other, share=3e-4):
    """Whether latents differ by little of their size."""
    one, other = one.float().cpu(), other.float().cpu()
    return (one - other).norm() <= share * other.norm()


@pytest.fixture(params=FAMILIES)
def family_base(request, tmp_path):
    save_tiny(request.param, tmp_path)
    return tmp_path


def concept_for(pipe):
    targets = all_targets(pipe)
    return make_concept(pipe, targets=targets, trigger="text_encoder" in targets)


def test_a_picture_is_that_of_the_cpu(family_base):
    """A concept put on before the move, and after it, draws what it draws on the CPU."""
    cpu, before, after = (load(family_base / "base") for _ in range(3))
    concept, plain = concept_for(cpu), picture(cpu, **SIZE)
    for pipe in (cpu, before):
        load_concept(pipe, concept)
    before.to("cuda")
    load_concept(after.to("cuda"), concept)
    wanted = picture(cpu, **SIZE)
    assert not near(plain, wanted)
    assert near(picture(before, **SIZE), wanted) and near(picture(after, **SIZE), wanted)
    fuse_concepts(after)
    assert near(picture(after, **SIZE), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves(base_folder, pipe, dtype):
    """A concept moves a picture as in float32, from one noise: a seed draws others in halves."""
    half, noise = load(base_folder, dtype).to("cuda"), torch.randn(1, 4, 16, 16)

    def drawn(pipe):
        return picture(pipe, latents=noise.to(pipe.device, pipe.dtype)).float().cpu()

    plain, plain_half = drawn(pipe), drawn(half)
    concept = make_concept(pipe)
    load_concept(pipe, concept, name="rex")
    load_concept(half, concept, name="rex")
    moved = drawn(pipe) - plain
    assert moved.norm() > 0.1 * plain.norm()
    assert near(drawn(half) - plain_half, moved, 0.2)
    set_concepts(half, {})
    assert torch.equal(drawn(half), plain_half)


@pytest.mark.parametrize("precision", ["no", "fp16", "bf16"])
def test_training_learns_there_and_is_used_anywhere(family_base, precision):
    config = tiny_config(family_base, mixed_precision=precision, max_train_steps=6)
    if precision == "fp16" and family_of(str(family_base / "base")).dtype == "bfloat16":
        with pytest.raises(ValueError, match="overflow in float16"):
            run(config)
        return
    result = run(config)
    assert result.loss_after < result.loss_before and not result.stopped
    on_cpu = load(family_base / "base")
    load_concept(on_cpu, result.path)
    on_gpu = load_base(str(family_base / "base")).to("cuda")
    on_gpu.set_progress_bar_config(disable=True)
    load_concept(on_gpu, result.path)
    assert near(picture(on_gpu, **SIZE), picture(on_cpu, **SIZE))


def test_a_training_is_that_of_the_cpu(config, monkeypatch):
    """The photos' noise, and so each step, is drawn on the CPU: both learn nearly the same."""
    there = run(config)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    PartialState._reset_state()  # else accelerate keeps to the GPU
    here = run(config, output_dir=config.output_dir + "-cpu")
    assert np.isclose(there.loss_before, here.loss_before, rtol=1e-3)
    a, b = (one.concept.deltas.astype(np.float32) for one in (there, here))
    assert np.corrcoef(a, b)[0, 1] > 0.95
    PartialState._reset_state()


def test_a_resumed_training_goes_on(config):
    """Stopped after half, by its own checkpoint, it ends where the unbroken one does."""
    whole = run(config, checkpointing_steps=2)
    half = replace(config, output_dir=config.output_dir + "-half", checkpointing_steps=2)

    def stop(training, _):
        if training.step == 2:
            training.stopped = "enough"

    run(half, report=stop)
    again = run(half, resume_from_checkpoint="latest")
    assert again.steps == whole.steps
    a, b = (one.concept.deltas.astype(np.float32) for one in (whole, again))
    assert np.corrcoef(a, b)[0, 1] > 0.99


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_offloaded_pictures(family_base, kind):
    """Parts that come and go draw the same; less of the GPU is held between two pictures."""
    stays, away = (load(family_base / "base") for _ in range(2))
    concept = concept_for(stays)
    for pipe in (stays, away):
        load_concept(pipe, concept)
    wanted = picture(stays.to("cuda"), **SIZE)
    offload(away, kind)
    assert near(picture(away, **SIZE), wanted)
    denoiser = getattr(away, recognise(away).denoiser)
    assert {w.device.type for w in denoiser.parameters()} <= {"cpu", "meta"}


@pytest.mark.parametrize("kind, package", [("4bit", "bitsandbytes"), ("int8", "torchao")])
@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "flux2-klein", "z-image"])
def test_a_quantised_base(name, kind, package, tmp_path):
    """It learns, with encoders that rest, and its concept draws on it and on the whole base."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    save_tiny(name, tmp_path)
    config = tiny_config(tmp_path, quantize=kind, mixed_precision="bf16", max_train_steps=6,
                         offload=True)  # fmt: skip
    result = run(config)
    assert result.loss_after < result.loss_before
    base = str(tmp_path / "base")
    few_bits = load_base(base, torch.bfloat16, quantize=kind).to("cuda")
    few_bits.set_progress_bar_config(disable=True)
    plain = picture(few_bits, **SIZE)
    load_concept(few_bits, result.path)
    assert not torch.equal(picture(few_bits, **SIZE), plain)
    load_concept(load(base), result.path)


def test_gradient_checkpointing_and_prior(config, tmp_path):
    result = run(config, gradient_checkpointing=True, with_prior_preservation=True,
                 class_data_dir=str(tmp_path / "class"), num_class_images=2,
                 mixed_precision="fp16", validation_prompt="a photo of sks dog",
                 validation_steps=2, num_validation_images=1, allow_tf32=True)  # fmt: skip
    assert result.steps == config.max_train_steps and np.isfinite(result.loss_after)
    assert len(list((tmp_path / "class").iterdir())) == 2
    assert list((tmp_path / "rex" / "validation").glob("*.png"))


def test_previews_of_an_offloaded_training_take_the_largest_model_alone(config):
    """What is on the GPU at most, beside what is trained, while a validation is generated."""
    peaks = {}
    for away in (False, True):
        training = Training(replace(config, offload=away), make_accelerator(config), False)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        training.previews.sample("a photo of sks dog", [0], 1)
        peaks[away] = torch.cuda.max_memory_allocated()
        pipe, family = training.base.pipe, training.base.family
        models = {**family.components(pipe), **family.text_models(pipe), "vae": pipe.vae}
        sizes = [sum(p.nbytes for p in model.parameters()) for model in models.values()]
        del training, pipe, models
    assert peaks[True] <= peaks[False] - (sum(sizes) - max(sizes)) / 2


def test_compiled(pipe):
    """torch.compile takes the patched denoiser, and strengths change without another one."""
    pipe.to("cuda")
    load_concept(pipe, make_concept(pipe), name="rex")
    wanted = [picture(pipe)]
    set_concepts(pipe, {"rex": 0.5})
    wanted.append(picture(pipe))
    pipe.unet = torch.compile(pipe.unet)
    assert near(picture(pipe), wanted[1])
    set_concepts(pipe, {"rex": 1.0})
    assert near(picture(pipe), wanted[0])


def test_the_app_draws_there(base_folder):
    studio = SharedPipeline(str(base_folder))
    assert studio.device == "cuda" and studio.pipe.unet.dtype == torch.float16
    assert studio.memory_check()[0]
