"""The first step's loss with deltas at zero, against the published formulas written out by hand,
on the same weights, noise and time steps. Nothing of families/ computes the expected number; what
text encoders read is asked of diffusers' own pipeline.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from helpers.published_losses import PROMPT, published_loss
from helpers.tiny_families import TINY, save_tiny
from helpers.tiny_pipelines import first_gradients, load
from PIL import Image

from svfit_diffusion.families import recognise
from svfit_diffusion.families.flow import Flow
from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.runtime import make_accelerator

VIDEO = ("qwen-image", "krea-2")  # whose VAE is one for video


@pytest.fixture(scope="module", params=TINY)
def first_step(request, tmp_path_factory):
    """A family's loss of a batch before anything is learned, the batch, and the plain base."""
    root = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, root)
    config = TrainConfig(
        pretrained_model_name_or_path=str(root / "base"),
        instance_data_dir=str(root / "photos"),
        instance_prompt=PROMPT,
        output_dir=str(root / "rex"),
        resolution=32,
        rank="4",
        train_batch_size=4,
        train_token=False,
        center_crop=True,
    )
    training = Training(config, make_accelerator(config), progress=False)
    objective, examples = training.objective, training.subject.examples
    (part,) = objective._sample(examples, 0, range(4))
    loss = objective.loss(training.model, 0).item()
    return SimpleNamespace(
        name=request.param, training=training, config=config, loss=loss,
        batch=part.batch, examples=examples,
        pipe=load(root / "base"), photos=root / "photos",
    )  # fmt: skip


@torch.no_grad()
def test_the_loss_is_the_published_one(first_step):
    pipe, batch = first_step.pipe, first_step.batch
    by_hand = published_loss(first_step.name, pipe, batch)
    print(f"{first_step.name}: {first_step.loss:.7f}, by hand {by_hand:.7f}")
    assert first_step.loss == pytest.approx(float(by_hand), rel=1e-5)


@torch.no_grad()
def test_latents_are_what_the_pipeline_decodes(first_step):
    """Scaled, shifted, patched: undone as the pipeline undoes it, they are the VAE's own."""
    pipe, latents = first_step.pipe, first_step.examples.mean[0][None]
    image = np.array(Image.open(first_step.photos / "0.png"))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    if first_step.name.startswith("flux2"):
        deviation = (pipe.vae.bn.running_var + pipe.vae.config.batch_norm_eps).sqrt()
        latents = latents * deviation.view(1, -1, 1, 1)
        latents = latents + pipe.vae.bn.running_mean.view(1, -1, 1, 1)
        latents = Flux2KleinPipeline._unpatchify_latents(latents)
    elif first_step.name == "ideogram-4":
        deviation = (pipe.vae.bn.running_var + pipe.vae.config.batch_norm_eps).sqrt()
        latents = latents.movedim(1, -1) * deviation + pipe.vae.bn.running_mean
        latents = latents.view(1, 8, 8, 2, 2, 4).permute(0, 5, 1, 3, 2, 4).reshape(1, 4, 16, 16)
    elif first_step.name in VIDEO:
        pixels, settings = pixels.unsqueeze(2), pipe.vae.config
        mean, deviation = (torch.tensor(x) for x in (settings.latents_mean, settings.latents_std))
        latents = (latents.movedim(1, -1) * deviation + mean).movedim(-1, 1).unsqueeze(2)
    else:
        latents = latents / pipe.vae.config.scaling_factor
        latents = latents + (getattr(pipe.vae.config, "shift_factor", None) or 0)
    found = pipe.vae.encode(pixels)
    plain = found.latent if first_step.name == "sana" else found.latent_dist.mean
    assert torch.allclose(latents, plain, atol=1e-4)


def test_time_steps_are_drawn_as_the_scripts_draw_them(first_step):
    """SD3 and Ideogram 4: logit-normal. All others: uniform."""
    family, random = recognise(first_step.pipe), torch.Generator().manual_seed(0)
    steps = [family.sample_timestep(random, 1000, TrainConfig()) for _ in range(2000)]
    places = (torch.stack(steps) + 0.5) / 1000
    if family.name == "sd3":
        assert abs(places.logit().mean()) < 0.07 and abs(places.logit().std() - 1) < 0.05
    elif family.name == "ideogram-4":  # of 2,048 px, by its pipeline's rule
        levels = (1 - places).logit()
        assert abs(levels.mean() - 0.5 * math.log(16)) < 0.1 and abs(levels.std() - 1.5) < 0.07
    else:
        assert abs(places.mean() - 0.5) < 0.02 and abs(places.std() - 12**-0.5) < 0.01


def test_settings_of_another_kind_of_base_are_refused(first_step):
    family = recognise(first_step.pipe)
    flow = isinstance(family, Flow)
    odd = {"snr_gamma": 5.0} if flow else {"weighting_scheme": "mode"}
    with pytest.raises(ValueError, match=next(iter(odd))):
        family.check(TrainConfig(**odd))
    for scheme in ("none", "logit_normal", "mode", "cosmap", "sigma_sqrt") if flow else ():
        config, noise = (
            TrainConfig(weighting_scheme=scheme),
            family.training_scheduler(first_step.pipe.scheduler),
        )
        steps = torch.stack([
            family.sample_timestep(torch.Generator().manual_seed(i), 1000, config)
            for i in range(20)
        ])  # fmt: skip
        weights = family.weights(noise, steps, config)
        assert steps.min() >= 0 and steps.max() < 1000 and torch.isfinite(weights).all()


def test_gradient_checkpointing_changes_no_gradient(first_step):
    plain, less = (
        first_gradients(first_step.config, gradient_checkpointing=on) for on in (False, True)
    )
    assert {*plain} == {*less} and any(g.any() for g in plain.values())
    for name, gradient in plain.items():
        assert torch.allclose(less[name], gradient, rtol=1e-3, atol=1e-6), name


def test_pictures_are_the_same_while_activations_are_recomputed(first_step):
    """Which needs models in training mode, where HiDream's gives patches."""
    config = replace(first_step.config, gradient_checkpointing=True)
    training = Training(config, make_accelerator(config), progress=False)
    pictures = [one.previews.sample(PROMPT, [0], 2)[0] for one in (first_step.training, training)]
    assert np.array_equal(*map(np.asarray, pictures))
    assert getattr(training.base.pipe, training.base.family.denoiser).training


@torch.no_grad()
def test_a_prompt_is_read_alike_beside_a_longer_one(first_step):
    """Padding says nothing, and each picture gets the prompt that is its own."""
    model, batch = first_step.training.model, first_step.batch
    prompts = [PROMPT, f"{PROMPT} on the wide beach in the rain", "a mug"]

    def predicted(rows, prompts):
        noisy, times = batch.latents[:1].repeat(len(rows), 1, 1, 1), torch.full((len(rows),), 0.5)
        frames = batch.frames[:1].repeat(len(rows), 1)
        return model(noisy, times, prompts, frames)

    together = predicted(range(3), prompts)
    for i, prompt in enumerate(prompts):
        alone = predicted([i], [prompt])
        assert torch.allclose(together[i : i + 1], alone, atol=1e-4)
        assert not torch.allclose(together[i - 1 : i or None], alone, atol=1e-6)
