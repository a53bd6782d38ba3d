"""What needs a package that is not always there says so in a sentence, and works where it is."""

import argparse
import logging
import sys
import types
from dataclasses import replace

import pytest
import torch
from helpers.tiny_pipelines import run, same
from helpers.trainings import elsewhere, last, stop_at

from svfit_diffusion.concept import read_concept
from svfit_diffusion.settings import add_arguments, from_arguments
from svfit_diffusion.training import dry_run, result
from svfit_diffusion.training.runtime import prodigy_rate


def missing(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("svfit_diffusion.training.runtime.find_spec", lambda *_: None)


@pytest.mark.parametrize(
    ("changes", "package"),
    [
        ({"optimizer": "prodigy"}, "prodigyopt"),
        ({"report_to": "wandb"}, "wandb"),
        ({"report_to": "comet_ml"}, "comet_ml"),
        ({"instance_data_dir": None, "dataset_name": "me/dogs"}, "datasets"),
    ],
)
def test_what_is_missing_is_named(config, monkeypatch, changes, package):
    missing(monkeypatch, package)
    with pytest.raises(ValueError, match=f"needs the package {package}; run `pip install") as error:
        run(config, **changes)
    assert "\n" not in str(error.value)


def test_report_to_all_takes_what_is_there(config):
    run(config, report_to="all", max_train_steps=1)
    assert list((config.concept_path.parent / "logs").rglob("events*"))


def test_a_dry_run_names_it_too(config, monkeypatch):
    missing(monkeypatch, "wandb")
    with pytest.raises(ValueError, match="report_to wandb needs the package wandb"):
        dry_run(replace(config, report_to="wandb"))


class Prodigy(torch.optim.AdamW):
    """Stands in for prodigyopt's: one rate for all groups, and a `d` that it finds."""

    def __init__(self, groups, beta3, decouple, use_bias_correction, safeguard_warmup, **common):
        assert len({group["lr"] for group in groups}) == 1
        super().__init__(groups, **common)
        self.given = (beta3, decouple, use_bias_correction, safeguard_warmup)
        self.defaults["d"] = 1e-6
        for group in self.param_groups:
            group.setdefault("d", 1e-6)

    def step(self, closure=None):
        for group in self.param_groups:
            group["d"] = min(2 * group["d"], 1e-3)
            rate, group["lr"] = group["lr"], group["lr"] * group["d"]
        super().step(closure)
        for group in self.param_groups:
            group["lr"] = rate


def test_prodigy_trains_and_goes_on_with_the_rate_it_found(config, monkeypatch):
    module = types.SimpleNamespace(Prodigy=Prodigy)
    monkeypatch.setitem(sys.modules, "prodigyopt", module)
    monkeypatch.setattr("svfit_diffusion.training.runtime.find_spec", lambda _: module)
    config = replace(config, optimizer="prodigy", prodigy_decouple=False, max_train_steps=4)
    seen, whole, parts = {}, elsewhere(config, "whole"), elsewhere(config, "parts")
    unbroken = run(whole, lambda training, _: seen.update(optimizer=training.optimizer))
    assert seen["optimizer"].optimizer.given == (None, False, True, True)
    assert {group["lr"] for group in seen["optimizer"].param_groups} == {1.0}
    run(parts, stop_at(2))
    resumed = run(parts, resume_from_checkpoint="latest")
    assert same(resumed.concept, unbroken.concept) and last(parts) == last(whole)


def test_a_dataset_of_the_hub(config, photos, monkeypatch):
    rows = [
        {"photo": {"bytes": path.read_bytes(), "path": None}, "says": f"sks dog {path.stem}"}
        for path in sorted(photos.iterdir())
    ]
    rows.append({"photo": {"bytes": b"no picture", "path": None}, "says": "sks"})
    asked = []

    class Rows(list):
        column_names = ("photo", "says")

        def cast_column(self, name, kind):
            asked.append((name, kind))
            return self

    module = types.SimpleNamespace(
        load_dataset=lambda *given, **more: asked.append((given, more)) or Rows(rows),
        Image=lambda decode: "bytes" if not decode else "pictures",
    )
    monkeypatch.setitem(sys.modules, "datasets", module)
    given = {"instance_data_dir": None, "dataset_name": "me/dogs", "image_column": "photo"}
    given |= {"caption_column": "says", "dataset_config_name": "small", "cache_dir": "here"}
    seen = []
    run(config, lambda training, _: seen.append(training), **given, max_train_steps=1)
    assert asked[0] == (("me/dogs", "small"), {"cache_dir": "here", "split": "train"})
    assert asked[1] == ("photo", "bytes")
    captions = seen[0].subject.examples.captions
    assert captions == ("sks dog 0", "sks dog 1", "sks dog 2")
    assert seen[0].summary["photos"] == "3 used, 1 skipped (3)"
    with pytest.raises(ValueError, match="no column 'text', but: photo, says"):
        run(config, **given | {"caption_column": "text"})


def test_a_dataset_on_this_machine_needs_no_package(config, photos, monkeypatch):
    missing(monkeypatch, "datasets")
    given = {"instance_data_dir": None, "dataset_name": str(photos)}
    assert run(config, **given, max_train_steps=1).concept.training["photos"] == 3


def test_the_concept_is_uploaded_when_it_is_trained(config, monkeypatch, caplog):
    asked = []

    def push(path, repo_id, token):
        asked.append((read_concept(path).token, repo_id, token))
        if repo_id == "me/no":
            raise ValueError("the Hub refused.")
        return "https://hub/me/rex"

    monkeypatch.setattr(result, "push_to_hub", push)
    given = {"push_to_hub": True, "max_train_steps": 1}
    trained = run(config, **given, hub_token="secret", hub_model_id="me/rex")
    assert asked == [("sks", "me/rex", "secret")] and trained.address == "https://hub/me/rex"
    states = list(trained.path.parent.rglob("state.json"))
    assert states and not any(b"secret" in path.read_bytes() for path in states)
    run(config, **given)
    assert asked[-1] == ("sks", "rex", None)
    with caplog.at_level(logging.ERROR):
        failed = run(config, **given, hub_model_id="me/no")
    assert failed.address == "" and failed.path.is_file() and "The concept itself" in caplog.text


def test_what_was_stopped_is_not_uploaded(config, monkeypatch, caplog):
    monkeypatch.setattr(result, "push_to_hub", lambda *_: pytest.fail("uploaded"))
    with caplog.at_level(logging.WARNING):
        trained = run(config, stop_at(1), push_to_hub=True)
    assert trained.steps == 1 and not trained.address
    assert "not uploaded, as it was stopped early; `svfit push` uploads it." in caplog.text


def test_a_presets_rate_is_not_prodigys():
    """A rate of prodigy multiplies the one that it finds."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    def rate(flags):
        return prodigy_rate(from_arguments(parser.parse_args(flags.split())))

    assert rate("--optimizer prodigy --preset paper") == 1
    assert rate("--optimizer prodigy --preset paper --learning_rate 0.02") == 0.02
    with pytest.raises(ValueError, match="leave scale_lr out"):
        rate("--optimizer prodigy --scale_lr")


def test_columns_and_masks_that_a_dataset_does_not_have(config, photos, monkeypatch):
    rows = [{"image": {"bytes": next(photos.iterdir()).read_bytes()}, "text": ["a sks dog", "b"]}]
    found = types.SimpleNamespace(column_names=("image", "text"), cast_column=lambda *_: held)
    held = type("Rows", (list,), {"column_names": ("image", "text")})(rows)
    module = types.SimpleNamespace(load_dataset=lambda *_, **__: found, Image=lambda decode: None)
    monkeypatch.setitem(sys.modules, "datasets", module)
    given = {"instance_data_dir": None, "dataset_name": "me/dogs"}
    with pytest.raises(ValueError, match="column 'text' of the dataset 'me/dogs' holds list, not"):
        run(config, **given, caption_column="text")
    with pytest.raises(ValueError, match="photos' files, which those of a dataset do not have"):
        run(config, **given, alpha_mask=True)
