"""PEFT's comparison of image generation on our experiments: its training, its evaluation, its file.

On a tiny FLUX.2 klein, a tiny DINOv2 and drawn photos, for two steps.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_families import flux2_parts
from helpers.tiny_text_encoders import make_qwen
from PIL import Image

from benchmarks.image_gen.suite import EXPERIMENTS, SUITE
from svfit_diffusion import read_concept

from .conftest import checkout

ROOT = Path(__file__).parents[2]
PHOTOS, SIDE, STEPS = 20, 32, 2  # the suite's captions are 20
LORA = "experiments/lora/flux2-klein-default/adapter_config.json"


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A copy of the checkout that `PEFT` names, on a branch that is not main."""
    pytest.importorskip("datasets", reason="PEFT's suite needs datasets")
    theirs = checkout("PEFT", str(SUITE))
    copy = tmp_path_factory.mktemp("peft")
    for part in (Path("src", "peft"), SUITE):
        shutil.copytree(theirs / part, copy / part)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q", "-b", "trial"], ["add", "."], ["commit", "-q", "-m", "copy"]):
        subprocess.run([*git, *command], cwd=copy, check=True)
    return copy


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    """Our experiments, with parameters of a small size."""
    from diffusers import Flux2KleinPipeline
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("suite")
    torch.manual_seed(0)
    parts = flux2_parts(guidance_embeds=False) | make_qwen(8, layers=31)
    Flux2KleinPipeline(**parts, is_distilled=False).save_pretrained(folder / "klein")
    size = {"height": SIDE, "width": SIDE}
    Dinov2Model(
        Dinov2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=SIDE,
            patch_size=8,
        )
    ).save_pretrained(folder / "dino")  # fmt: skip
    BitImageProcessor(size=size, crop_size=size).save_pretrained(folder / "dino")
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for i in range(PHOTOS):
        pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{i:02d}.png")
    small = {
        "model_id": str(folder / "klein"), "dataset_id": str(folder / "photos"),
        "dino_model_id": str(folder / "dino"), "dtype": "float32", "resolution": SIDE,
        "max_steps": STEPS, "eval_steps": 1, "num_inference_steps": 2, "max_sequence_length": 128,
        "optimizer_kwargs": {"lr": 1.0},  # an edit that is seen after two steps
    }  # fmt: skip
    shutil.copytree(EXPERIMENTS, folder / "experiments")
    for path in (folder / "experiments").glob("*/*/training_params.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | small))
    return folder / "experiments"


def run(suite, experiments, *arguments):
    """The result of an experiment, by a process that imports the checkout's peft."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}
    environment |= {"SVFIT_CACHE": str(suite / "bases")}
    script = ROOT / "tests" / "helpers" / "image_gen.py"
    done = subprocess.run(
        [sys.executable, script, suite, experiments, *arguments],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    last = done.stdout.strip().splitlines()[-1]
    return Path(last.removeprefix("RESULT ")), done.stderr


def keys(value, depth=3):
    """The names in a result, some levels deep; what a method sets itself is its own."""
    if not isinstance(value, dict) or not depth:
        return None
    own = ("peft_config", "metrics")
    return {name: None if name in own else keys(x, depth - 1) for name, x in value.items()}


def result_of(suite, name):
    """A result that PEFT published."""
    path = suite / SUITE / "results" / f"{name.replace('/', '--')}.json"
    return json.loads(path.read_text())


def published(suite):
    """One as its code would write it today: with a key that came later."""
    found = result_of(suite, "psoft/flux2-klein-default")
    return found | {"run_info": found["run_info"] | {"peft_worktree_is_dirty": False}}


@pytest.mark.parametrize(("name", "rank"), [("default", 32), ("rank560", 560)])
def test_pefts_code_trains_and_measures_our_experiment(suite, experiments, name, rank):
    """A projection of a tiny width trains as many values as it has; the adapter's file holds those
    that the suite counts, and all of the projections that its own LoRA targets.
    """
    path, printed = run(suite, experiments, f"svfit/flux2-klein-{name}")
    found = json.loads(path.read_text())
    assert path.parent == suite / SUITE / "temporary_results"  # the branch is not main
    assert keys(found) == keys(published(suite))
    info = found["train_info"]
    assert info["status"] == "success" and found["run_info"]["error_msg"] == ""
    assert found["run_info"]["peft_config"]["peft_type"] == "SVFIT"
    assert found["run_info"]["peft_config"]["r"] == rank
    assert [m["step"] for m in info["metrics"]] == [*range(1, STEPS + 1), STEPS]
    assert -1 <= info["metrics"][-1]["test dino_similarity"] <= 1
    assert info["metrics"][-1]["drift"] > 0  # the trained adapter, beside none
    folder = printed.partition("Saved PEFT checkpoint to ")[2].partition("\n")[0]
    assert folder, "the suite saved no adapter"
    sizes = [min(shape) for shape in targets(suite).values()]
    assert info["num_trainable_params"] == sum(min(rank, size) for size in sizes)
    assert info["file_size"] > 4 * info["num_trainable_params"]


def test_the_learned_word_is_measured_by_pefts_code(suite, experiments, tmp_path):
    path, _ = run(suite, experiments, "svfit-word/flux2-klein-rank16", tmp_path / "word")
    found = json.loads(path.read_text())
    assert keys(found) == keys(published(suite))
    info = found["train_info"]
    concept = next((tmp_path / "word" / "concept").glob("*.safetensors"))
    read = read_concept(concept)
    assert info["num_trainable_params"] == read.values == read.deltas.size + 3 * 8  # three layers
    assert read.training["steps"] == STEPS
    assert info["file_size"] == concept.stat().st_size
    assert set(info["metrics"][-1]) == {"step", "test dino_similarity", "drift"}
    photos = sorted((tmp_path / "word" / "photos").glob("*.png"))
    assert len(photos) == PHOTOS - 2 - 4  # what is left after its validation and test photos


def targets(suite):
    """Name -> shape of the tiny base's Linear layers that the suite's own LoRA would adapt."""
    theirs = json.loads((suite / SUITE / LORA).read_text())["target_modules"]
    endings = tuple("." + name for name in theirs)
    return {
        name: tuple(module.weight.shape)
        for name, module in flux2_parts(guidance_embeds=False)["transformer"].named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(endings)
    }


def test_the_page_cites_what_peft_published(suite):
    """docs/compare.md has the numbers of the checkout's results, and our experiments adapt the
    layers of its LoRA.
    """
    text = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| PEFT: `(\S+)` \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", text, re.M)
    assert len(rows) == 10
    for name, *cited in rows:
        found = result_of(suite, name)["train_info"]
        last = found["metrics"][-1]
        counted = [f"{found[key]:,}" for key in ("num_trainable_params", "file_size")]
        measured = [f"{last[key]:.3f}" for key in ("test dino_similarity", "drift")]
        assert cited == counted + measured, name
    theirs = json.loads((suite / SUITE / LORA).read_text())["target_modules"]
    for path in EXPERIMENTS.glob("svfit/*/adapter_config.json"):
        assert set(json.loads(path.read_text())["target_modules"]) == set(theirs)
