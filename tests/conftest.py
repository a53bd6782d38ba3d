"""Fixtures: a tiny Stable Diffusion pipeline, photos and a training of four steps."""

import os
from functools import partial

import httpx
import pytest
import scipy.linalg  # noqa: F401, loads the BLAS that is limited below
import torch
from helpers.tiny_pipelines import load, make_pipeline
from PIL import Image
from threadpoolctl import threadpool_limits

os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("get", "post"):  # httpx gives up after 5 s, which a busy machine may take
    setattr(httpx, name, partial(getattr(httpx, name), timeout=120))
torch.set_num_threads(1)  # tiny matrices: more threads only wait for one another
threadpool_limits(1, user_api="blas")  # ten times slower where other work holds one of the cores
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # child processes too
    os.environ.setdefault(name, "1")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Each test has a basis cache of its own."""
    monkeypatch.setenv("SVFIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A diffusers folder of the tiny pipeline, published in float16."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    make_pipeline().to(torch.float16).save_pretrained(folder)
    return folder


@pytest.fixture
def pipe(base_folder):
    """The tiny pipeline, loaded in float32 from its published folder."""
    return load(base_folder)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Three pictures of a red square on different grounds."""
    folder = tmp_path_factory.mktemp("photos")
    for i, ground in enumerate(("white", "blue", "black")):
        image = Image.new("RGB", (40, 32), ground)
        image.paste((255, 0, 0), (8 + 4 * i, 8, 24 + 4 * i, 24))
        image.save(folder / f"{i}.png")
    return folder


@pytest.fixture
def config(base_folder, photos, tmp_path):
    """A training of four steps on them."""
    from svfit_diffusion.settings import TrainConfig

    return TrainConfig(
        pretrained_model_name_or_path=str(base_folder),
        instance_data_dir=str(photos),
        instance_prompt="a photo of sks dog",
        output_dir=str(tmp_path / "rex"),
        caption_backgrounds=False,
        rank="4",
        max_train_steps=4,
        train_batch_size=2,
    )
