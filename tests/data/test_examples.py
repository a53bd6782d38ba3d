"""examples.py: every random number depends on the seed and the sample's number alone."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from svfit_diffusion.data.examples import (
    encode,
    fixed_noise_batches,
    frames,
    photo_order,
    sample_batch,
    views,
)
from svfit_diffusion.data.reading import Photo, to_tensor


def photo(width=40, height=40, caption=None, colour=(255, 0, 0)):
    return Photo("p.png", Image.new("RGB", (width, height), colour), caption)


def examples(count=3):
    photos = [photo(60, 40, caption="b" if i == 1 else None) for i in range(count)]

    def encoder(pixels):
        return pixels[:, :, ::8, ::8], torch.full_like(pixels[:, :, ::8, ::8], 0.1)

    def view(photo):
        return views(photo.image, 16, False, True)

    def frame(photo):
        return frames(photo.image, 16, False, True)

    return encode(photos, "a", view, frame, encoder)


def test_long_photos_have_three_places_square_ones_one():
    assert views(photo(60, 40).image, 16, False, False).shape == (3, 3, 16, 16)
    assert views(photo(60, 40).image, 16, True, False).shape == (1, 3, 16, 16)
    assert views(photo(44, 40).image, 16, False, True).shape == (2, 3, 16, 16)


def test_flips_are_mirror_images():
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (0, 0, 16, 32))
    plain, mirrored = views(image, 16, True, True)
    assert torch.equal(plain.flip(-1), mirrored) and not torch.equal(plain, mirrored)


@pytest.mark.parametrize("size", [(60, 40), (37, 90), (44, 40), (9, 12)])
@pytest.mark.parametrize("wanted", [16, (24, 16), (16, 40)])
@pytest.mark.parametrize("center", [False, True])
def test_frames_say_where_a_crop_lies(size, wanted, center):
    """The recipe of SDXL's paper (arXiv 2307.01952, algorithm 1): mirror the photo or not, scale it
    to cover the target, crop at (top, left). Oracle: that, by PIL, gives the picture itself.
    """
    image = Image.radial_gradient("L").resize(size).convert("RGB")
    image.paste((255, 0, 0), (0, 0, size[0] // 3, size[1] // 2))
    seen, told = (f(image, wanted, center, True) for f in (views, frames))
    assert len(seen) == len(told) in (2, 6) and len(told.unique(dim=0)) >= len(told) / 2
    for number, (picture, frame) in enumerate(zip(seen, told.tolist(), strict=True)):
        height, width, top, left, down, across = frame
        assert (height, width) == size[::-1] and picture.shape[1:] == (down, across)
        mirrored = number >= len(seen) // 2
        source = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
        scale = max(down / height, across / width)
        scaled = source.resize(
            (round(width * scale), round(height * scale)), Image.Resampling.LANCZOS
        )
        oracle = to_tensor(scaled.crop((left, top, left + across, top + down)))
        assert (oracle - picture).abs().mean() < 0.12  # a crop lies between pixels of the scaled


def test_latents_vary_as_the_vae_says(tmp_path):
    """mean + deviation * N(0, 1): over many samples of one picture, that mean and deviation."""
    held = examples(1)
    held = replace(held, variants=((0,),), deviation=[torch.full_like(held.mean[0], 0.25)])
    latents = sample_batch(held, 3, range(600), 1000).latents
    assert (latents.mean(0) - held.mean[0]).abs().max() < 0.06
    assert abs(latents.std(0).mean() - 0.25) < 0.01
    batch = sample_batch(held, 3, range(600), 1000)
    rest = (latents - held.mean[0]).flatten() / 0.25
    assert abs(torch.corrcoef(torch.stack([rest, batch.noise.flatten()]))[0, 1]) < 0.02


def test_captions_default_to_the_prompt():
    assert examples().captions == ("a", "b", "a")
    assert [len(v) for v in examples().variants] == [6, 6, 6]


def test_each_photo_comes_once_an_epoch_in_changing_order():
    orders = [[photo_order(0, 5 * e + i, 5) for i in range(5)] for e in range(20)]
    assert all(sorted(order) == list(range(5)) for order in orders)
    assert len({tuple(order) for order in orders}) > 10


def test_a_sample_does_not_depend_on_its_batch():
    held = examples()
    whole = sample_batch(held, 7, range(8), 1000, 0.1)
    parts = [sample_batch(held, 7, range(i, i + 2), 1000, 0.1) for i in range(0, 8, 2)]
    for name in ("latents", "noise", "steps"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(p, name) for p in parts]))
    assert whole.photos == sum((p.photos for p in parts), ())
    other = sample_batch(held, 8, range(8), 1000)
    assert not torch.equal(whole.noise, other.noise)


def test_noise_is_standard_normal_and_steps_uniform():
    batch = sample_batch(examples(), 0, range(400), 1000)
    assert abs(batch.noise.mean()) < 0.05 and abs(batch.noise.std() - 1) < 0.05
    assert batch.steps.min() < 50 and batch.steps.max() > 950


def test_held_out_noise_is_fixed_and_covers_all_steps():
    (one,), (two,) = fixed_noise_batches(examples(), 1000), fixed_noise_batches(examples(), 1000)
    assert torch.equal(one.noise, two.noise) and len(one.photos) == 12
    assert one.steps[:4].tolist() == [125, 375, 625, 875]
