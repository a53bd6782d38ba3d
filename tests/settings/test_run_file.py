"""settings.run_file: every setting comes back from its file, and nothing else goes in."""

from dataclasses import asdict, fields
from pathlib import Path

import pytest

from svfit_diffusion.cli.main import command_parser
from svfit_diffusion.settings.config import TrainConfig
from svfit_diffusion.settings.flags import from_arguments
from svfit_diffusion.settings.run_file import NOT_WRITTEN, read_run, run_text

GIVEN = TrainConfig(
    instance_data_dir="~/photos/rex: \u00e4, 'x'",
    instance_prompt="a photo of sks dog, #1",
    rank="8",
    max_train_steps="auto",
    mixed_precision="no",
    learning_rate=1e-5,
    train_token=False,
    snr_gamma=5.0,
    created="2026-01-31T12:00:00Z",
    output_dir="somewhere",
    hub_token="hf_secret",
)


def parsed(*arguments):
    return from_arguments(command_parser().parse_args(["train", *arguments]))


def test_the_file_has_every_setting_but_secrets_and_where_results_go(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(run_text(GIVEN, "two\nlines"), "utf-8")
    text = path.read_text("utf-8")
    assert text.startswith("# two\n# lines\n") and "secret" not in text
    assert str(Path.home()) not in text and "~/photos" in text
    again = TrainConfig(**read_run(path))
    kept = {field.name for field in fields(TrainConfig)} - set(NOT_WRITTEN)
    assert {k: asdict(again)[k] for k in kept} == {k: asdict(GIVEN)[k] for k in kept}
    assert again.output_dir == TrainConfig.output_dir and again.hub_token is None


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("rank: 8\nlearning_rate: 1\nmax_train_steps: auto\n")
    found = parsed("--preset", "paper", "--config", str(path), "--rank", "4")
    assert (found.rank, found.learning_rate, found.max_train_steps) == ("4", 1.0, "auto")
    assert not found.train_token, "the preset's, as the file does not say"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rnak: 8", "has a setting 'rnak', which there is not"),
        ("- rank", "holds no settings"),
        ("", "holds no settings"),
        ("rank: [", "no YAML that can be read"),
        ("!!python/object/apply:os.system [echo]", "no YAML that can be read"),
        ("train_token: 1", "train_token: 1, but it must be bool"),
        ("seed: true", "seed: True, but it must be int"),
        ("mixed_precision: no", "must be str or nothing; put a text in quotes"),
        ("seed: {}", "but it must be int"),
        ("created: '2026'", "created is '2026', but must be a date and time"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_in_one_sentence(tmp_path, text, reason):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason) as error:
        parsed("--config", str(path))
    assert "\n" not in str(error.value)
