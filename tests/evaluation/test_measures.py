"""The measures against numbers computed by hand and with numpy."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from svfit_diffusion import load_concept, remove_concept
from svfit_diffusion.evaluation import measures
from svfit_diffusion.families import load_base
from svfit_diffusion.training.subject import sample_folder


def units(*rows):
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def random_units(count, width=7, seed=0):
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)))


def test_among_is_the_mean_of_all_pairs():
    x = random_units(5)
    pairs = [float(np.dot(x[i], x[j])) for i in range(5) for j in range(5) if i != j]
    assert measures.among(x) == pytest.approx(np.mean(pairs), abs=1e-6)
    with pytest.raises(ValueError, match="at least two"):
        measures.among(x[:1])


def test_fidelity_is_0_for_the_base_and_1_for_real_pictures():
    base, real = random_units(6, seed=1), units([1, 0.1, 0], [1, -0.1, 0], [1, 0, 0.1])
    base = base[:, :3]
    base = F.normalize(base)
    like = measures.likeness(base, base, real, real)
    assert like.fidelity == 0 and like.base == pytest.approx(float((base @ real.T).mean()))
    halfway = (like.base + like.real) / 2
    made = units([halfway, 0, np.sqrt(1 - halfway**2)])
    flat = units([1, 0, 0], [1, 0, 0])
    zero = measures.likeness(made, units([0, 1, 0]), flat, flat)
    assert zero.fidelity == pytest.approx(halfway, abs=1e-5)


def test_copy_looks_at_the_nearest_training_photo():
    photos = units([1, 0, 0], [0, 1, 0])
    like = measures.likeness(photos[:1], units([0, 0, 1]), units([1, 1, 0], [1, 0.9, 0]), photos)
    assert like.copy == pytest.approx(1)


def test_references_that_are_no_more_alike_than_noise_are_refused():
    with pytest.raises(ValueError, match="no scale"):
        measures.likeness(units([1, 0]), units([1, 0]), units([1, 0], [-1, 0.01]), units([1, 0]))


def test_drift_alignment_and_diversity():
    x, y = units([1, 0], [0, 1]), units([1, 0], [1, 0])
    assert measures.drift(x, x) == pytest.approx(0) and measures.drift(x, y) == pytest.approx(0.5)
    assert measures.alignment(x, y) == pytest.approx(0.5)
    four = units([1, 0], [1, 0], [1, 0], [0, 1])
    assert measures.diversity(four, 2) == pytest.approx(0.5)


def test_a_mask_leaves_the_subject_on_white():
    picture, mask = Image.new("RGB", (40, 30), "red"), Image.new("L", (40, 30), 0)
    ImageDraw.Draw(picture).rectangle((10, 5, 19, 24), fill="blue")
    ImageDraw.Draw(mask).rectangle((10, 5, 19, 24), fill=255)
    cut = measures.masked(picture, mask, margin=0.1)
    assert cut.size == (14, 24) and cut.getpixel((0, 0)) == (255, 255, 255)
    assert cut.getcolors() and (200, (0, 0, 255)) in cut.getcolors()
    with pytest.raises(ValueError, match="completely black"):
        measures.masked(picture, Image.new("L", (40, 30)))


@pytest.fixture(scope="module")
def toybox():
    pipe = load_base("toybox")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_denoising_loss_is_the_training_loss_written_out(toybox):
    """Against the formula, with v = sqrt(a) noise - sqrt(1 - a) latents worked out here."""
    pictures = [Image.open(path).convert("RGB") for path in sorted(sample_folder().glob("*.png"))]
    found = measures.denoising_loss(toybox, pictures[:1], ["a photo of a toy"], times=2)
    x = torch.from_numpy(np.array(pictures[0])).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        latents = toybox.vae.encode(x).latent_dist.mode() * toybox.vae.config.scaling_factor
        text, _ = toybox.encode_prompt(["a photo of a toy"], "cpu", 1, False)
        random = measures.generator("evaluate", 0)
        noise, total = torch.randn(2, *latents.shape[1:], generator=random), 0.0
        for row, step in zip(noise, (250, 750), strict=True):
            a = toybox.scheduler.alphas_cumprod[step]
            noisy = a.sqrt() * latents + (1 - a).sqrt() * row
            guess = toybox.unet(noisy, torch.tensor([step]), text).sample
            total += float((guess - (a.sqrt() * row - (1 - a).sqrt() * latents)).square().mean())
    assert found == pytest.approx(total / 2, rel=1e-4)


def test_denoising_loss_hears_the_trigger(toybox):
    pictures = [Image.open(path) for path in sorted(sample_folder().glob("*.png"))[:2]]
    grounds = "white", "beige"  # as the sample's captions name them
    prompts = [f"a photo of sks toy on a {ground} background" for ground in grounds]
    before = measures.denoising_loss(toybox, pictures, prompts, times=2)
    name = load_concept(toybox, sample_folder().parent / "robot.safetensors")
    after = measures.denoising_loss(toybox, pictures, prompts, times=2)
    remove_concept(toybox, name)
    assert after < before
    assert measures.denoising_loss(toybox, pictures, prompts, times=2) == before
