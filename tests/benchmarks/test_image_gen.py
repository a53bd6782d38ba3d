"""Our experiments for PEFT's comparison of image generation, without its checkout."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2Transformer2DModel
from helpers.tiny_families import make_flux2_klein
from helpers.tiny_pipelines import make_concept
from peft import PeftConfig, get_peft_model
from PIL import Image

from benchmarks.families.table import KLEIN_4B
from benchmarks.image_gen import suite
from benchmarks.image_gen.suite import EXPERIMENTS, enter, run_experiment
from benchmarks.image_gen.word import as_peft_model, write_photos
from svfit_diffusion import SVFitConfig, load_concept
from svfit_diffusion.adapter.tuner import layers
from svfit_diffusion.families import family_named

ROOT = Path(__file__).parents[2]
PROJECTIONS = 80
CANCELLED = """
import json, pathlib, sys
assert sys.argv[1:] == ["-v", "experiments/svfit/flux2-klein-default"]
assert pathlib.Path(sys.argv[-1]).is_dir()
result = {"run_info": {"error_msg": "no memory"}, "train_info": {"status": "canceled"}}
path = pathlib.Path(__file__).parent / "cancelled_results" / "svfit.json"
path.write_text(json.dumps(result))
"""
HEADER, FLOAT = 8, 4  # bytes: of the length before a header, and of a value


@pytest.mark.parametrize(("name", "rank"), [("default", 32), ("rank560", 560), ("common", 16)])
def test_the_page_states_what_an_experiment_trains_and_stores(name, rank):
    """On FLUX.2 klein 4B in its true size: rank x projections, and the bytes that PEFT's code will
    count, of one float32 vector for each.
    """
    config = PeftConfig.from_pretrained(EXPERIMENTS / "svfit" / f"flux2-klein-{name}")
    assert isinstance(config, SVFitConfig) and config.r == rank
    with torch.device("meta"):
        modules = Flux2Transformer2DModel(**KLEIN_4B).named_modules()
    endings = tuple("." + ending for ending in config.target_modules)
    found = {n: m for n, m in modules if isinstance(m, torch.nn.Linear) and n.endswith(endings)}
    assert len(found) == PROJECTIONS
    assert all(min(module.weight.shape) >= rank for module in found.values())
    values = PROJECTIONS * rank + config.common
    text = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    assert f"| {values:,} | {stored(found, rank, config.common):,} |" in text


def stored(names, rank, common):
    """Bytes of an adapter's safetensors file, by the format: a JSON header, padded to 8 bytes.

    names: of the layers, in the model's order; the first of them holds the common vector.
    """
    sizes = {f"base_model.model.{name}.svfit_delta": rank for name in names}
    if common:
        sizes[f"base_model.model.{next(iter(names))}.svfit_common"] = common
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for key, size in sorted(sizes.items()):
        stop = start + FLOAT * size
        header[key] = {"dtype": "F32", "shape": [size], "data_offsets": [start, stop]}
        start = stop
    length = len(json.dumps(header, separators=(",", ":")))
    return HEADER + -(-length // 8) * 8 + start


@pytest.mark.parametrize("common", [0, 64])
def test_an_adapters_file_has_the_bytes_that_are_computed(tmp_path, common):
    """PEFT's own file, of a tiny base; the page states those of the true one."""
    targets = ["to_q", "add_k_proj", "to_qkv_mlp_proj"]
    config = SVFitConfig(r=4, target_modules=targets, common=common)
    model = get_peft_model(make_flux2_klein().transformer, config)
    model.save_pretrained(tmp_path)
    ours = layers(model)
    found = [name for name, _ in model.named_modules() if name in ours]
    names = [name.removeprefix("base_model.model.") for name in found]
    found = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert len(names) == 3 and found == stored(names, 4, common)


def test_a_concept_as_a_peft_model_predicts_the_same_and_can_be_turned_off():
    """The suite measures drift by `disable_adapter`: then it is the base, to the last bit."""
    pipe = make_flux2_klein()
    concept = make_concept(pipe, targets={"transformer": "both"}, trigger=False)
    inputs = {
        "hidden_states": torch.randn(1, 16, 16),
        "encoder_hidden_states": torch.randn(1, 5, 24),
        "timestep": torch.tensor([0.5]),
        "img_ids": torch.zeros(1, 16, 4),
        "txt_ids": torch.zeros(1, 5, 4),
        "return_dict": False,
    }
    with torch.no_grad():
        base = pipe.transformer(**inputs)[0]
        name = load_concept(pipe, concept)
        edited = pipe.transformer(**inputs)[0]
        as_peft_model(pipe, name)
        tuned = pipe.transformer(**inputs)[0]
        with pipe.transformer.disable_adapter():
            off = pipe.transformer(**inputs)[0]
    assert not torch.equal(edited, base)
    assert torch.equal(tuned, edited)
    assert torch.equal(off, base)


def test_the_word_is_measured_in_the_states_that_it_was_learned_in():
    """In others it would not be heard: the suite's own parameters name other layers."""
    file = EXPERIMENTS / "svfit-word" / "flux2-klein-rank16" / "training_params.json"
    (output,) = family_named("Flux2KleinPipeline").word_outputs
    assert json.loads(file.read_text())["text_encoder_out_layers"] == list(output.layers)


def test_the_suites_photos_are_written_as_they_are_with_their_captions(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    values = [torch.from_numpy(p).permute(2, 0, 1) / 255 * 2 - 1 for p in pixels]  # as it has them
    write_photos({"pixel_values": values, "prompts": ["sks cat", "a cat"]}, tmp_path / "photos")
    for i, prompt in enumerate(("sks cat", "a cat")):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"photos/{i:02d}.png")), pixels[i])
        assert (tmp_path / f"photos/{i:02d}.txt").read_text() == prompt


def test_what_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no .*run\.py beside src/peft; pass a clone"):
        enter(tmp_path)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("", "has 0 new results after the run"),
        (CANCELLED, "cancelled the run: no memory .recorded"),
    ],
)
def test_a_run_without_a_result_is_an_error(script, message, tmp_path, monkeypatch):
    """PEFT's run.py ends with 0 when it cancels a run; these stand for what it then leaves."""
    (tmp_path / "cancelled_results").mkdir()
    (tmp_path / "run.py").write_text(script)
    monkeypatch.setattr(sys, "argv", ["before"])
    before = Path.cwd()
    with pytest.raises(ValueError, match=message):
        run_experiment(tmp_path, "svfit/flux2-klein-default")
    assert sys.argv == ["before"] and Path.cwd() == before


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python is new enough")
def test_an_older_python_is_refused_in_a_sentence(tmp_path):
    command = [sys.executable, "-m", "benchmarks.image_gen", "--peft", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: this is Python 3.11, but PEFT's comparison needs 3.12")


def test_a_machine_without_what_the_suite_needs_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "PACKAGES", ("json", "no_such_package"))
    with pytest.raises(ValueError, match=r"needs no_such_package; run .pip install -r .*\.txt"):
        suite.check_machine(tmp_path)
    monkeypatch.setattr(suite, "PACKAGES", ("json",))
    monkeypatch.setattr(suite, "DEVICES", ("another",))
    with pytest.raises(ValueError, match=r"needs a GPU .another., but torch finds '\w+'"):
        suite.check_machine(tmp_path)
