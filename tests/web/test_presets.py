"""web.studio.presets and words: from a user's answers to the settings of a training."""

import pytest
from helpers.tiny_families import save_tiny

from svfit_diffusion.web.studio.presets import make_config
from svfit_diffusion.web.studio.words import class_word, propose_token


def test_what_it_is_and_a_trigger(tmp_path):
    assert class_word("  My  dog. ") == "dog" and class_word("a toy robot") == "toy robot"
    with pytest.raises(ValueError, match="Say what the photos show"):
        class_word(" the ")
    assert propose_token([]) == "sks" and propose_token(["SKS"]) == "zwx"
    assert propose_token(["sks", "zwx", "ohwx", "tok"]) == "sks2"
    quick = make_config("toybox", tmp_path, "rex", "sks", "dog", "quick", seed=3)
    other = make_config("some/base", tmp_path, "rex", "sks", "dog", "thorough", preset="paper")
    assert quick["max_train_steps"] < other["max_train_steps"] and quick["seed"] == 3
    assert other["rank"] == "energy=0.99" and other["gradient_checkpointing"]
    assert make_config("toybox", tmp_path, "rex", "sks", "dog", "auto")["max_train_steps"] == "auto"
    for given, reason in (({"quality": "soon"}, "quality"), ({"learning_rate": -1}, "above 0")):
        with pytest.raises(ValueError, match=reason):
            make_config("toybox", tmp_path, "rex", "sks", "dog", **given)


@pytest.mark.parametrize("name, half", [("sd", "fp16"), ("flux", "bf16")])
def test_on_a_gpu_a_training_is_as_precise_as_the_base(name, half, tmp_path, monkeypatch):
    monkeypatch.setattr("svfit_diffusion.web.studio.presets.pick_device", lambda: "cuda")
    save_tiny(name, tmp_path)
    planned = make_config(str(tmp_path / "base"), tmp_path, "rex", "sks", "dog", "quick")
    assert planned["mixed_precision"] == half
