"""web.studio.presets and words: from a user's answers to the settings of a training."""

import pytest
from helpers.tiny_families import save_tiny

from svfit_diffusion.web.studio.presets import make_config
from svfit_diffusion.web.studio.words import class_word, propose_word


def test_what_it_is_and_a_trigger(tmp_path):
    assert class_word("  My  dog. ") == "dog" and class_word("a toy robot") == "toy robot"
    with pytest.raises(ValueError, match="Say what the photos show"):
        class_word(" the ")
    quick = make_config("toybox", tmp_path, "rex", "sks", "dog", "quick", seed=3)
    other = make_config("some/base", tmp_path, "rex", "sks", "dog", "thorough", preset="paper")
    bases = [given["pretrained_model_name_or_path"] for given in (quick, other)]
    assert bases == ["toybox", "some/base"], "the page knows a run by it, also the default"
    assert quick["max_train_steps"] < other["max_train_steps"] and quick["seed"] == 3
    assert other["rank"] == "energy=0.99" and other["gradient_checkpointing"]
    assert make_config("toybox", tmp_path, "rex", "sks", "dog", "auto")["max_train_steps"] == "auto"
    for given, reason in (({"quality": "soon"}, "quality"), ({"learning_rate": -1}, "above 0")):
        with pytest.raises(ValueError, match=reason):
            make_config("toybox", tmp_path, "rex", "sks", "dog", **given)


def test_a_proposed_word_has_the_name_in_it_and_is_nobody_elses():
    mine = propose_word("My Rex", set(), "my salt")
    assert mine.startswith("myrex") and len(mine) == len("myrex") + 3 and mine.isalpha()
    assert propose_word("My Rex", set(), "my salt") == mine, "the form shows what is used"
    assert propose_word("My Rex", {mine}, "my salt") != mine
    others = {propose_word("rex", set(), f"salt of user {i}") for i in range(100)}
    assert len(others) > 90
    taken: set[str] = set()
    for _ in range(300):
        taken.add(propose_word("rex", taken, "my salt"))
    assert len(taken) == 300


@pytest.mark.parametrize("name, half", [("sd", "fp16"), ("flux", "bf16")])
def test_on_a_gpu_a_training_is_as_precise_as_the_base(name, half, tmp_path, monkeypatch):
    monkeypatch.setattr("svfit_diffusion.web.studio.presets.pick_device", lambda: "cuda")
    save_tiny(name, tmp_path)
    planned = make_config(str(tmp_path / "base"), tmp_path, "rex", "sks", "dog", "quick")
    assert planned["mixed_precision"] == half
