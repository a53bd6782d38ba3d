"""The first step's loss with deltas at zero, against the published formulas written out by hand,
on the same weights, noise and time steps. Nothing of families/ computes the expected number; what
text encoders read is asked of diffusers' own pipeline.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline, FluxPipeline
from helpers.tiny_families import TINY, save_tiny
from helpers.tiny_pipelines import load
from PIL import Image

from svfit_diffusion.families import recognise
from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.runtime import make_accelerator

PROMPT = "a photo of sks dog"


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
        name=request.param, loss=loss, batch=part.batch, examples=examples,
        pipe=load(root / "base"), photos=root / "photos",
    )  # fmt: skip


def diffused(steps):
    """sqrt(a) and sqrt(1 - a) [n, 1, 1, 1] of Stable Diffusion's schedule."""
    betas = torch.linspace(0.0001**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[steps].view(-1, 1, 1, 1)
    return kept.sqrt(), (1 - kept).sqrt()


def unet_loss(pipe, batch):
    keep, blur = diffused(batch.steps)
    noisy = (keep * batch.latents + blur * batch.noise).float()
    n = len(noisy)
    if hasattr(pipe, "text_encoder_2"):
        hidden, _, pooled, _ = pipe.encode_prompt([PROMPT] * n, do_classifier_free_guidance=False)
        cut = {0: (32, 32, 0, 0, 32, 32), 1: (32, 56, 0, 12, 32, 32)}  # the photos of save_tiny
        ids = torch.tensor([cut[photo] for photo in batch.photos], dtype=torch.float32)
        assert len(ids.unique(dim=0)) == 2
        added = {"text_embeds": pooled, "time_ids": ids}
        found = pipe.unet(noisy, batch.steps, hidden, added_cond_kwargs=added).sample
    else:
        ids = pipe.tokenizer([PROMPT] * n, padding="max_length", return_tensors="pt").input_ids
        found = pipe.unet(noisy, batch.steps, pipe.text_encoder(ids)[0]).sample
    velocity = pipe.scheduler.config.prediction_type == "v_prediction"
    target = keep * batch.noise - blur * batch.latents if velocity else batch.noise
    return (found - target).square().mean()


def flow_loss(pipe, batch, shift, predict):
    level = (1000 - batch.steps) / 1000
    level = shift * level / (1 + (shift - 1) * level)
    share = level.view(-1, 1, 1, 1)
    noisy = (1 - share) * batch.latents + share * batch.noise
    return (predict(pipe, noisy, level) - (batch.noise - batch.latents)).square().mean()


def sd3(pipe, noisy, level):
    hidden, _, pooled, _ = pipe.encode_prompt(PROMPT, PROMPT, PROMPT)
    n = len(noisy)
    return pipe.transformer(
        noisy, hidden.repeat(n, 1, 1), pooled.repeat(n, 1), timestep=1000 * level
    ).sample


def flux(pipe, noisy, level):
    hidden, pooled, words = pipe.encode_prompt(PROMPT)
    n = len(noisy)
    packed = FluxPipeline._pack_latents(noisy, *noisy.shape)
    places = FluxPipeline._prepare_latent_image_ids(n, 8, 8, "cpu", torch.float32)
    found = pipe.transformer(
        hidden_states=packed, timestep=level, guidance=torch.ones(n), txt_ids=words,
        img_ids=places, encoder_hidden_states=hidden.repeat(n, 1, 1),
        pooled_projections=pooled.repeat(n, 1),
    ).sample  # fmt: skip
    return FluxPipeline._unpack_latents(found, 32, 32, 2)


def flux2(pipe, noisy, level):
    hidden, words = pipe.encode_prompt([PROMPT] * len(noisy))
    places = Flux2KleinPipeline._prepare_latent_ids(noisy)
    told = {"guidance": torch.ones(len(noisy))} if pipe.transformer.config.guidance_embeds else {}
    found = pipe.transformer(
        **told, hidden_states=Flux2KleinPipeline._pack_latents(noisy), timestep=level,
        encoder_hidden_states=hidden, txt_ids=words, img_ids=places,
    ).sample  # fmt: skip
    return Flux2KleinPipeline._unpack_latents_with_ids(found, places)


def z_image(pipe, noisy, level):
    words, _ = pipe.encode_prompt([PROMPT], "cpu", do_classifier_free_guidance=False)
    found = pipe.transformer(list(noisy.unsqueeze(2)), 1 - level, words * len(noisy)).sample
    return -torch.stack(found)[:, :, 0]


@torch.no_grad()
def test_the_loss_is_the_published_one(first_step):
    pipe, batch = first_step.pipe, first_step.batch
    by_hand = {
        "sd3": lambda: flow_loss(pipe, batch, 3.0, sd3),
        "flux": lambda: flow_loss(pipe, batch, 1.0, flux),
        "flux2-klein": lambda: flow_loss(pipe, batch, 1.0, flux2),
        "flux2": lambda: flow_loss(pipe, batch, 1.0, flux2),
        "z-image": lambda: flow_loss(pipe, batch, 3.0, z_image),
    }.get(first_step.name, lambda: unet_loss(pipe, batch))()
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
    else:
        latents = latents / pipe.vae.config.scaling_factor
        latents = latents + (getattr(pipe.vae.config, "shift_factor", None) or 0)
    assert torch.allclose(latents, pipe.vae.encode(pixels).latent_dist.mean, atol=1e-4)


def test_time_steps_are_drawn_as_the_scripts_draw_them(first_step):
    """SD3: logit-normal. All others: uniform."""
    family, random = recognise(first_step.pipe), torch.Generator().manual_seed(0)
    steps = [family.sample_timestep(random, 1000, TrainConfig()) for _ in range(2000)]
    places = (torch.stack(steps) + 0.5) / 1000
    if family.name == "sd3":
        assert abs(places.logit().mean()) < 0.07 and abs(places.logit().std() - 1) < 0.05
    else:
        assert abs(places.mean() - 0.5) < 0.02 and abs(places.std() - 12**-0.5) < 0.01


def test_settings_of_another_kind_of_base_are_refused(first_step):
    family = recognise(first_step.pipe)
    flow = family.denoiser == "transformer"
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
