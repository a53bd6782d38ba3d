"""recipes/serving/replicas.py: two `svfit serve` behind one address answer alike, and one does."""

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from helpers.tiny_pipelines import load, make_concept
from PIL import Image

from svfit_diffusion.concept.file import write_concept
from svfit_diffusion.generation import generate
from svfit_diffusion.pipeline.loading import load_concept

RECIPE = Path(__file__).parents[2] / "recipes" / "serving" / "replicas.py"
WISH = {"prompt": "a photo of sks dog", "steps": 2, "width": 32, "height": 32}


@pytest.fixture
def served(base_folder, tmp_path):
    """The address, and the replicas' processes; two concepts, both called by `sks`."""
    folder, base = tmp_path / "concepts", load(base_folder)
    folder.mkdir()
    for seed, name in enumerate(("rex", "mug")):
        write_concept(make_concept(base, seed=seed), folder / f"{name}.safetensors")
    command = [sys.executable, str(RECIPE), "--port", "0", "--", "--base", str(base_folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, "--concepts", str(folder)], env=environment,
                          stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        line = process.stdout.readline().split()
        yield line[2], [psutil.Process(int(pid.strip("."))) for pid in line[5:]]
        process.terminate()
        assert process.wait(60) == 0


def ask(url, name, seed):
    """The picture of a concept, as numbers."""
    wish = WISH | {"concepts": {name: 0.8}, "seed": seed}
    answer = httpx.post(f"{url}/v1/pictures", json=wish, timeout=300)
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)), int)


def test_two_replicas_answer_as_one_pipeline_and_one_is_enough(served, base_folder, tmp_path):
    url, replicas = served
    wishes = [(name, seed) for seed in (1, 2, 3) for name in ("rex", "mug")]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda wish: ask(url, *wish), wishes))
    pipe, wanted = {}, {}
    for name in ("rex", "mug"):
        pipe[name] = load(base_folder)
        load_concept(pipe[name], tmp_path / "concepts" / f"{name}.safetensors", 0.8)
    for (name, seed), image in zip(wishes, found, strict=True):
        wanted[name, seed] = np.asarray(next(generate(pipe[name], seed=seed, **WISH))[0], int)
        assert np.abs(image - wanted[name, seed]).max() <= 1, (name, seed)
    assert np.abs(wanted["rex", 1] - wanted["mug", 1]).max() > 10
    assert len(replicas) == 2 and all(one.cpu_times().user > 0 for one in replicas)
    replicas[0].kill()
    replicas[0].wait()
    assert np.abs(ask(url, "rex", 1) - wanted["rex", 1]).max() <= 1
    counts = httpx.get(f"{url}/metrics").text
    assert "svfit_pictures_total" in counts and "svfit_failures_total 0" in counts
    psutil.wait_procs(replicas[:1])


def test_a_replica_that_cannot_start_is_said(tmp_path):
    command = [sys.executable, str(RECIPE), "--", "--concepts", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "a replica ended with status 2" in done.stderr
