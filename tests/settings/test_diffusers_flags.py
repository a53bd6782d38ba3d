"""diffusers_flags.py: a command of diffusers' DreamBooth scripts runs, every flag of it."""

import argparse
import json
from pathlib import Path

import pytest

from svfit_diffusion.settings import (
    NOT_NEEDED,
    REFUSED,
    RENAMED,
    TrainConfig,
    add_arguments,
    flag_remarks,
    flags_table,
    from_arguments,
)

ROOT = Path(__file__).parents[2]
SCRIPTS = json.loads((Path(__file__).parent / "diffusers_flags.json").read_text())
FLAGS = sorted({flag for flags in SCRIPTS["flags"].values() for flag in flags})
VALUES = {  # of the flags that take one; a word of letters does for the others
    **dict.fromkeys(("bool",), "True"), "int": "2", "float": "0.5", "str": "x", "+": "1",
}  # fmt: skip


PARSER = argparse.ArgumentParser()
add_arguments(PARSER)


def parse(*arguments):
    return PARSER.parse_args(arguments)


def value(flag):
    """What a command gives the flag; nothing for a switch."""
    kind = SCRIPTS["kinds"][flag]
    chosen = {"mixed_precision": "bf16", "optimizer": "Prodigy", "report_to": "all",
              "lr_scheduler": "cosine", "weighting_scheme": "mode"}  # fmt: skip
    return [] if kind == "switch" else [chosen.get(flag, VALUES[kind])]


@pytest.mark.parametrize("script", SCRIPTS["flags"])
def test_every_flag_of_a_script_is_taken_or_explained(script):
    known = set(vars(parse()))
    for flag in SCRIPTS["flags"][script]:
        assert flag in known, f"--{flag} is unknown"
        parsed = parse(f"--{flag}", *value(flag))
        if flag in REFUSED:
            with pytest.raises(ValueError, match=f"--{flag} cannot be used: "):
                flag_remarks(parsed)
            continue
        needless = [f"--{flag} is not needed: {NOT_NEEDED[flag]}."] if flag in NOT_NEEDED else []
        assert flag_remarks(parsed) == needless


def test_flags_of_another_name_here():
    assert from_arguments(parse("--offset_noise")).noise_offset == 0.1
    config = from_arguments(parse("--final_validation_prompt", "sks dog"))
    assert config.validation_prompt == "sks dog" and set(RENAMED) <= set(FLAGS)


def test_the_table_in_the_docs_is_of_all_flags():
    text = (ROOT / "docs" / "flags.md").read_text(encoding="utf-8")
    assert flags_table(FLAGS) in text, "write docs/flags.md anew with settings.flags_table"


def test_epochs_are_steps():
    config = TrainConfig(num_train_epochs=10, repeats=3, train_batch_size=2, validation_epochs=5)
    found = config.in_steps(photos=5, processes=1)
    assert (found.max_train_steps, found.validation_steps) == (80, 40)
    assert config.in_steps(photos=5, processes=4).max_train_steps == 20
    scaled = TrainConfig(scale_lr=True, gradient_accumulation_steps=3, learning_rate=0.001)
    assert scaled.in_steps(5, 2).learning_rate == pytest.approx(0.024)
    assert scaled.in_steps(5, 2).in_steps(5, 2) == scaled.in_steps(5, 2)
    both = parse("--num_train_epochs", "3", "--max_train_steps", "7")
    assert from_arguments(both).in_steps(5, 1).max_train_steps == 7
    assert flag_remarks(both) == [
        "--num_train_epochs is not used: --max_train_steps says how long."
    ]
    with pytest.raises(ValueError, match="leave out num_train_epochs"):
        TrainConfig(max_train_steps="auto", num_train_epochs=1)


def test_prodigys_switches_have_values():
    config = from_arguments(parse("--optimizer", "PRODIGY", "--prodigy_decouple", "False"))
    assert config.optimizer == "prodigy" and not config.prodigy_decouple
    assert from_arguments(parse("--prodigy_decouple")).prodigy_decouple


def test_a_token_is_shown_nowhere():
    config = TrainConfig(push_to_hub=True, hub_token="hf_secret")
    assert "hf_secret" not in repr(config)
    with pytest.raises(ValueError, match="could be logged there"):
        TrainConfig(report_to="wandb", hub_token="hf_secret")


def test_photos_come_from_one_place():
    with pytest.raises(ValueError, match="not both"):
        TrainConfig(instance_data_dir="a", dataset_name="b")
