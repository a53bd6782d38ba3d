"""buckets.py, masks.py and what a training makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from svfit_diffusion.data.buckets import find_buckets, nearest
from svfit_diffusion.data.reading import crop, cut
from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training.loop import Training, train
from svfit_diffusion.training.objective import Objective, Part
from svfit_diffusion.training.runtime import make_accelerator


@pytest.fixture
def config(base_folder, tmp_path):
    """Photos: square, wide, tall, and a wide one again."""
    (tmp_path / "photos").mkdir()
    for i, size in enumerate(((64, 64), (96, 64), (64, 96), (120, 80))):
        image = Image.new("RGB", size, ("white", "blue", "black", "green")[i])
        image.paste((255, 0, 0), (8, 8, 40, 40))
        image.save(tmp_path / "photos" / f"{i}.png")
    return TrainConfig(
        pretrained_model_name_or_path=str(base_folder),
        instance_data_dir=str(tmp_path / "photos"),
        instance_prompt="a photo of sks dog",
        output_dir=str(tmp_path / "rex"),
        resolution=32,
        rank="4",
        max_train_steps=10,
        train_batch_size=4,
        train_text_encoder=False,
        use_aspect_ratio_buckets=True,
    )


def prepared(config):
    return Training(config, make_accelerator(config), progress=False)


def test_photos_keep_their_shape(config):
    training = prepared(config)
    examples = training.subject.examples
    sizes = [examples.shape(photo)[1:] for photo in range(4)]
    assert sizes[0] == (16, 16) and sizes[1][1] > sizes[1][0] and sizes[2] == sizes[1][::-1]
    assert sizes[3] == sizes[1]
    assert all(len(views) == 1 for views in examples.variants)  # nothing is cut into three
    assert train(config, progress=False).loss_after < training.fixed_noise.error(training.model)


def test_pictures_of_several_sizes_weigh_the_same_in_a_batch(config):
    """The loss of a batch of three sizes is the mean of its pictures' losses."""
    training = prepared(config)
    alone = replace(config, train_batch_size=1)
    one = Objective(alone, training.accelerator, training.base, training.subject)
    with torch.no_grad():
        parts = [one.loss(training.model, i).item() for i in range(4)]
        whole = training.objective.loss(training.model, 0).item()
    assert whole == pytest.approx(np.mean(parts), rel=1e-5)


def test_buckets_given_by_hand(config):
    explicit = replace(config, aspect_ratio_buckets="32,32; 32,48")
    assert find_buckets(explicit, 512, 8) == [(32, 32), (32, 48)]
    tall = Image.new("RGB", (64, 96))
    assert nearest([(32, 32), (32, 48)], tall) == (32, 32)
    assert nearest([(32, 32), (32, 48)], Image.new("RGB", (96, 64))) == (32, 48)
    assert find_buckets(replace(config, use_aspect_ratio_buckets=False), 512, 8) == [(512, 512)]
    for text, word in (("32x32", "aspect_ratio_buckets is '32x32'"), ("36,36", "multiples of 16")):
        with pytest.raises(ValueError, match=word):
            find_buckets(replace(config, aspect_ratio_buckets=text), 512, 16)
    with pytest.raises(ValueError, match="multiples of 16"):
        find_buckets(replace(config, use_aspect_ratio_buckets=False), 24, 16)
    with pytest.raises(ValueError, match="only with use_aspect_ratio_buckets"):
        TrainConfig(aspect_ratio_buckets="32,32")


@pytest.mark.parametrize("size", [(50, 31), (31, 50), (40, 40)])
def test_a_square_cut_is_the_crop(size):
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8)
    image = Image.fromarray(noise)
    assert cut(image, 32, 32, 0.2, 0.2).tobytes() == crop(image, 32, False, 0.2, 0.2).tobytes()


def test_a_cut_of_the_same_shape_cuts_nothing():
    image = Image.linear_gradient("L").resize((60, 40))
    assert (
        cut(image, 20, 30, 0.5, 0.5).tobytes()
        == image.resize((30, 20), Image.Resampling.LANCZOS).tobytes()
    )


@pytest.fixture
def masks(tmp_path):
    """Masks of the first two photos: the left half, and a grey whole."""
    (tmp_path / "masks").mkdir()
    left = Image.new("L", (64, 64))
    ImageDraw.Draw(left).rectangle((0, 0, 31, 63), fill=255)
    left.save(tmp_path / "masks" / "0.png")
    Image.new("L", (48, 32), 128).save(tmp_path / "masks" / "1.jpg")  # smaller, of its shape
    return tmp_path / "masks"


def test_masks_weigh_the_loss(config, masks):
    """By hand: the mean over the left half; a mask of one grey changes nothing."""
    training, plain = prepared(replace(config, mask_data_dir=str(masks))), prepared(config)
    held = training.subject.examples.masks
    assert held[0][0, :, :7].min() > 0.99 and held[0][0, :, 9:].max() < 0.01
    assert torch.equal(held[2], torch.ones_like(held[2]))
    errors = {
        name: [
            one.objective.errors(one.model, [Part(batch, one.subject.examples)])[0].item()
            for batch in _each_photo(one)
        ]
        for name, one in (("masked", training), ("plain", plain))
    }
    assert errors["masked"][1:] == pytest.approx(errors["plain"][1:], rel=1e-5)
    assert errors["masked"][0] != pytest.approx(errors["plain"][0], rel=1e-3)
    assert errors["masked"][0] == pytest.approx(_left_half(plain, held[0]), rel=1e-4)
    assert train(replace(config, mask_data_dir=str(masks)), progress=False).concept.deltas.any()


def _each_photo(training):
    from svfit_diffusion.data.examples import fixed_noise_batches

    batches = fixed_noise_batches(training.subject.examples, 1000, times=1)
    singles = {
        batch.photos[i]: batch.part(slice(i, i + 1))
        for batch in batches
        for i in range(len(batch.photos))
    }
    return [singles[photo] for photo in sorted(singles)]


@torch.no_grad()
def _left_half(training, mask):
    batch, objective = _each_photo(training)[0], training.objective
    noisy = objective.scheduler.add_noise(batch.latents, batch.noise, batch.steps)
    captions = [training.subject.examples.captions[0]]
    found = training.model(noisy, batch.steps, captions, batch.frames)
    errors = (found - batch.noise).square().mean(1)
    return ((errors * mask).sum() / mask.sum()).item()


def test_transparency_as_the_mask(config, tmp_path):
    cutout = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    cutout.paste((255, 0, 0, 255), (32, 0, 64, 64))
    cutout.save(tmp_path / "photos" / "0.png")
    held = prepared(replace(config, alpha_mask=True)).subject.examples.masks
    assert held[0][0, :, :7].max() < 0.01 and held[0][0, :, 9:].min() > 0.99
    assert torch.equal(held[1], torch.ones_like(held[1]))
    assert prepared(config).subject.examples.masks is None


def test_masks_that_cannot_be_meant_are_refused(config, masks, tmp_path):
    def refused(word, **changes):
        with pytest.raises(ValueError, match=word):
            prepared(replace(config, **changes))

    refused("is not a folder", mask_data_dir=str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    refused("no mask of these photos; .*0.png", mask_data_dir=str(tmp_path / "empty"))
    Image.new("L", (64, 64)).save(masks / "0.png")
    refused("0.png is black all over", mask_data_dir=str(masks))
    Image.new("L", (32, 64), 255).save(masks / "0.png")
    refused("32 x 64 px and its photo 64 x 64", mask_data_dir=str(masks))
    (masks / "0.png").write_bytes(b"no picture")
    refused("0.png cannot be read", mask_data_dir=str(masks))


def test_a_mask_of_16_bits_is_scaled(config, masks):
    """Pillow alone would make white of all that is above 255 of 65,535."""
    grey = np.full((64, 64), 257 * 64, dtype=np.uint16)
    grey[:, :32] = 257 * 255
    Image.fromarray(grey).save(masks / "0.png")
    held = prepared(replace(config, mask_data_dir=str(masks))).subject.examples.masks
    assert held[0][0, :, :7].min() > 0.99
    assert held[0][0, :, 9:].mean().item() == pytest.approx(64 / 255, abs=0.02)
