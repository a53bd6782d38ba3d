"""census.py: counted from a configuration alone, against real trainings and published sizes."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.tiny_families import TINY, all_targets, save_tiny
from helpers.tiny_pipelines import load, make_concept, run

from svfit_diffusion.cli.main import main
from svfit_diffusion.concept.file import read_concept, to_bytes
from svfit_diffusion.families import FAMILIES, recognise
from svfit_diffusion.pipeline import trigger
from svfit_diffusion.pipeline.concept_size import estimate_size
from svfit_diffusion.settings import TrainConfig

try:
    import resource
except ImportError:  # of Unix
    resource = None

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "families" / "table.py"


@pytest.fixture(scope="module")
def bases():
    spec = importlib.util.spec_from_file_location("families_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", TINY)
def test_it_counts_what_a_concept_has(name, tmp_path):
    """The same projections and values as a concept made on the base itself, and its bytes."""
    save_tiny(name, tmp_path)
    found, pipe = (
        estimate_size(str(tmp_path / "base"), TrainConfig(rank="4", common_size=64)),
        load(tmp_path / "base"),
    )
    family, targets = recognise(pipe), all_targets(pipe)
    concept = make_concept(pipe, targets=targets, trigger=False, packed=True)
    assert found.family == family.name and set(found.projections) == set(targets)
    assert sum(found.projections.values()) == len(concept.ranks)
    assert (found.values, found.common) == (concept.deltas.size, concept.common_size) != (0, 0)
    rows = sum(
        getattr(pipe, part).get_input_embeddings().weight.shape[1] for _, part in family.encoders
    )
    vectors = sum(
        trigger.output_width(getattr(pipe, part), output)
        for part, output in family.outputs(pipe).items()
    )
    assert found.trigger == 4 * rows + vectors
    data = len(to_bytes(concept)) + (4 * rows + vectors) // 2
    assert data < found.bytes < data + 500  # the word's scales and a training's settings
    for part, weights in found.weights.items():
        assert weights == sum(w.numel() for w in getattr(pipe, part).parameters())


@pytest.mark.parametrize(
    ("flag", "part"), [("text_encoder_rank", "text_encoder"), ("value_rank", "unet")]
)
def test_ranks_of_values_and_outputs(tmp_path, flag, part):
    save_tiny("sd", tmp_path)
    base = str(tmp_path / "base")
    plain = estimate_size(base, TrainConfig(rank="4"))
    wide = estimate_size(base, TrainConfig(rank="4", **{flag: "6"}))
    assert wide.values - plain.values == plain.projections[part]  # two more of each second one
    assert wide.projections == plain.projections and wide.bytes > plain.bytes


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_vectors": 3},
        {"train_token": False},
        {"delta_bits": 16},
        {"train_text_encoder": False},
    ],
    ids=str,
)
def test_it_is_the_file_that_a_training_of_these_settings_writes(settings, config):
    chosen = replace(config, rank="4", **settings)
    size = run(chosen).path.stat().st_size
    found = estimate_size(config.pretrained_model_name_or_path, chosen)
    concept = read_concept(chosen.concept_path)
    rows = concept.trigger_rows
    assert found.values == len(concept.deltas)
    assert found.trigger == (0 if rows is None else rows.size)
    assert abs(found.bytes - size) < 100, "the header's texts"


# Numbers of weights as published by their makers; of FLUX.1, that of its checkpoint file.
PUBLISHED = {
    "Stable Diffusion 1.5": ("unet", 859_520_964, 176, 2816),
    "SDXL 1.0": ("unet", 2_567_463_684, 736, 11776),
    "FLUX.1 dev": ("transformer", 11_901_408_320, 314, 5024),
}


def peak_memory():
    """Of this process so far, in KB; 0 where the system does not say it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if resource else 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_true_configurations(bases, name, tmp_path):
    """A base of 12 billion weights is counted in the memory of none."""
    part, weights, projections, values = PUBLISHED[name]
    before = peak_memory()
    plan = TrainConfig(text_encoder_rank="16")
    found = estimate_size(str(bases.write(name, tmp_path)), plan)
    assert found.weights[part] == weights
    assert (sum(found.projections.values()), found.values) == (projections, values)
    assert peak_memory() - before < 500_000


def test_the_command(bases, tmp_path, capsys):
    folder = str(bases.write("FLUX.2 klein 4B", tmp_path))
    assert main(["info", "--base", folder, "--rank", "16"]) == 0
    out = capsys.readouterr().out
    assert "family flux2-klein" in out and "80: 80 of transformer" in out and "1,280" in out
    assert main(["info", "--base", folder, "--rank", "full", "--no-train_text_encoder"]) == 0
    assert "memory" not in out
    most, _, alone = estimate_size(folder, TrainConfig(rank="16")).memory
    least = 12 * 27_648 * 3_072  # of the largest weight, in float64 and float32
    assert least <= alone <= most and alone < 2 * least
    assert main(["info", "--base", "toybox", "--memory"]) == 0
    found = re.search(r"memory +([\d.]+) MB at most .*; ([\d.]+) MB with", capsys.readouterr().out)
    assert float(found[2]) <= float(found[1])
    for wrong, word in (
        (["info"], "one of three"),
        (["info", "--base", folder, "--rank", "energy=0.9"], "depends on the weights"),
        (["info", "--base", str(tmp_path / "none")], "no diffusers folder"),
    ):
        assert main(wrong) == 2
        assert word in capsys.readouterr().err


def test_the_table_of_bases_is_what_a_count_gives(bases, tmp_path):
    table = (SCRIPT.parents[2] / "docs" / "bases.md").read_text()
    for name in bases.BASES:
        found = estimate_size(str(bases.write(name, tmp_path / name.lower().replace(" ", "-"))))
        assert bases.row(name, found) in table


def test_the_table_of_families_has_all_that_there_are(capsys):
    assert main(["info", "--families"]) == 0
    printed = capsys.readouterr().out
    table = (SCRIPT.parents[2] / "docs" / "bases.md").read_text()
    for family in FAMILIES:
        assert f"`{family.name}`" in table and family.bases
        for name, source in family.bases.items():
            line = next(line for line in printed.splitlines() if source in line)
            assert line.split()[0] == family.name and name in line
    assert main(["info", "--families", "--base", "toybox"]) == 2
