"""One process of test_processors.py: the environment says with which kernels.

    python processor.py '{"folder": F, "bases": true, "train": true, "files": [...], "steps": 10}'

makes F/bases.npz, F/rex/rex.safetensors, and F/pictures.npz, a picture with each concept file. It
prints in JSON which of OpenBLAS's and of torch's kernels it took, and with how many threads.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import scipy.linalg  # noqa: F401, has an OpenBLAS of its own
import torch
from threadpoolctl import threadpool_info

from svfit_diffusion.adapter.basis import factorize
from svfit_diffusion.families import load_base
from svfit_diffusion.pipeline import load_concept, remove_concept
from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training import train

N = 480  # large enough for block Krylov
K = np.arange(1, N + 1)


def weights():
    """Weights by name, by operations that are exact or that every processor rounds alike."""
    random = np.random.default_rng(0)

    def whole(*shape):
        return random.integers(-64, 65, shape) / 64

    low = whole(N, 12) @ whole(12, N)  # exact
    return {
        "random": whole(60, 90),
        "large": whole(N, N) / np.sqrt(K).astype(np.float32) / 8,
        "rank 12": low,
        "rank 12 in float16": torch.from_numpy(low * 0.7).half().double().numpy(),
        "identity": np.eye(64),
    }


RANKS = (1, 16, "full")


def bases():
    """U, V and groups of each weight at each rank."""
    made = {}
    for name, weight in weights().items():
        for rank in RANKS:
            basis = factorize(torch.from_numpy(weight), rank)
            for part in ("U", "V", "groups"):
                made[f"{name}/{rank}/{part}"] = getattr(basis, part).numpy()
    return made


def configuration(folder):
    """Ten steps on Toybox, deltas in float16: four bits would round differences away, or up."""
    return TrainConfig(output_dir=str(folder / "rex"), max_train_steps=10, delta_bits=16, seed=3)


@torch.no_grad()
def picture(pipe, steps):
    """A picture in floats of 0 to 1: [height, width, 3]."""
    return pipe(
        "a photo of sks toy on the beach",
        num_inference_steps=steps,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images[0]


def pictures(files, steps):
    """A picture with each concept, by file; a self-check that fails ends the process."""
    pipe, made = load_base("toybox"), {}
    pipe.set_progress_bar_config(disable=True)
    for file in files:
        name = load_concept(pipe, file)
        made[str(file)] = picture(pipe, steps)
        remove_concept(pipe, name)
    return made


def kernels():
    """What was taken: OpenBLAS's architectures and threads, torch's capability and threads."""
    blas = [found for found in threadpool_info() if found["internal_api"] == "openblas"]
    return {
        "openblas": sorted({found["architecture"] for found in blas}),
        "threads": sorted({found["num_threads"] for found in blas} | {torch.get_num_threads()}),
        "torch": torch.backends.cpu.get_cpu_capability(),
    }


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    folder = Path(order["folder"])
    os.environ["SVFIT_CACHE"] = str(folder / "cache")
    if order.get("bases"):
        np.savez(folder / "bases.npz", **bases())
    if order.get("train"):
        train(configuration(folder), progress=False)
    if order.get("files"):
        np.savez(folder / "pictures.npz", **pictures(order["files"], order["steps"]))
    print(json.dumps(kernels()))
