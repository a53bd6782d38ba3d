"""resuming.py: a training that was stopped ends where one that was not does.

To the last bit: here both run on one machine.
"""

import copy
import logging
import shutil
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from helpers.tiny_pipelines import in_two_processes, load, make_pipeline, run, same
from helpers.trainings import elsewhere, last, stop_at
from PIL import Image

from svfit_diffusion.settings import TrainConfig
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.objective import Objective
from svfit_diffusion.training.runtime import make_accelerator

LATEST = {"resume_from_checkpoint": "latest"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lr_scheduler": "cosine", "lr_warmup_steps": 2, "adam_weight_decay": 0.1},
        {"gradient_accumulation_steps": 2, "random_flip": True, "noise_offset": 0.1},
        {"mixed_precision": "bf16", "train_token": False, "gradient_checkpointing": True},
    ],
    ids=["plain", "schedule", "accumulation", "bf16"],
)
def test_n_and_n_steps_are_2n_steps(config, changes):
    """Deltas, trigger, optimizer and schedule, and so the photos and noise of every step."""
    config = replace(config, max_train_steps=6, checkpointing_steps=100, **changes)
    whole, parts = elsewhere(config, "whole"), elsewhere(config, "parts")
    unbroken = run(whole)
    assert run(parts, stop_at(3)).steps == 3
    resumed = run(parts, **LATEST)
    assert resumed.steps == 6 and same(resumed.concept, unbroken.concept)
    assert last(parts) == last(whole)


@pytest.mark.slow
def test_two_processes_go_on_where_they_stopped(config):
    whole, parts = elsewhere(config, "whole"), elsewhere(config, "parts")
    in_two_processes(whole)
    in_two_processes(replace(parts, max_train_steps=2))
    in_two_processes(replace(parts, **LATEST))
    assert last(parts) == last(whole)


def test_a_finished_training_goes_on_with_more_steps(config, caplog):
    whole, parts = elsewhere(config, "whole"), elsewhere(config, "parts")
    run(whole, max_train_steps=4)
    run(parts, max_train_steps=2)
    with caplog.at_level(logging.WARNING):
        run(parts, max_train_steps=4, **LATEST)
        assert "goes on with max_train_steps 4 instead of 2." in caplog.text
        assert last(parts) == last(whole)
        assert run(parts, max_train_steps=4, **LATEST).steps == 4
    assert "checkpoint-4 has all 4 steps, so nothing is left to train" in caplog.text


def test_dropout_is_reproduced_and_the_callers_random_numbers_are_untouched(config, tmp_path):
    base = make_pipeline()
    base.text_encoder.config.attention_dropout = 0.5
    base.to(torch.float16).save_pretrained(tmp_path / "base")
    config = replace(
        config, pretrained_model_name_or_path=str(tmp_path / "base"), gradient_checkpointing=True
    )
    whole, parts = elsewhere(config, "whole"), elsewhere(config, "parts")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    run(whole)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    run(parts, stop_at(2))
    torch.manual_seed(3)
    run(parts, **LATEST)
    assert last(parts) == last(whole)
    plain = elsewhere(config, "plain")
    run(plain, gradient_checkpointing=False)
    assert last(plain) != last(whole)  # there is dropout


def test_resuming_what_is_not_there_is_an_error(config):
    run(config, max_train_steps=1)
    with pytest.raises(ValueError, match="no complete checkpoint 'checkpoint-7'"):
        run(config, resume_from_checkpoint="checkpoint-7")


def test_a_damaged_latest_one_falls_back_and_ends_the_same(config, caplog):
    whole, parts = elsewhere(config, "whole"), elsewhere(config, "parts")
    run(whole, checkpointing_steps=1)
    run(parts, stop_at(3), checkpointing_steps=1)
    path = Path(parts.output_dir) / "checkpoint-3" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with caplog.at_level(logging.WARNING):
        run(parts, **LATEST)
    assert "checkpoint-3 is damaged" in caplog.text and last(parts) == last(whole)
    path.parent.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="checkpoint-3"):
        run(parts, resume_from_checkpoint="checkpoint-3")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rank": "3"}, "--rank 4, not 3"),
        ({"seed": 1}, "--seed 0, not 1"),
        ({"attention": "cross"}, "--attention both, not cross"),
        ({"train_token": False}, "--train_token True, not False"),
        ({"train_text_encoder": False}, "--train_text_encoder True, not False"),
        ({"num_vectors": 2}, "--num_vectors None, not 2"),
        ({"common_size": 64}, "--common_size 4096, not 64"),
        ({"instance_prompt": "a photo of sks mug"}, "the class word 'dog', not 'mug'"),
        ({"instance_prompt": "a photo of zwx dog"}, "the trigger 'sks', not 'zwx'"),
    ],
)
def test_what_must_match_cannot_change(config, changes, reason):
    run(config, max_train_steps=1)
    with pytest.raises(ValueError, match=f"checkpoint-1 was trained with {reason}; resume"):
        run(config, **LATEST, **changes)


def test_another_base_of_the_same_shape_is_refused_and_a_copy_is_not(config, tmp_path):
    run(config, max_train_steps=1)
    other, copy = tmp_path / "other", tmp_path / "copy"
    make_pipeline(seed=1).to(torch.float16).save_pretrained(other)
    shutil.copytree(config.pretrained_model_name_or_path, copy)
    with pytest.raises(ValueError, match="checkpoint-1 was trained on another base"):
        run(config, **LATEST, pretrained_model_name_or_path=str(other))
    assert run(config, **LATEST, pretrained_model_name_or_path=str(copy)).steps == 4


def test_other_changes_are_reported(config, photos, tmp_path, caplog):
    run(config, max_train_steps=1)
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    shutil.copy(photos / "0.png", fewer)
    changes = {"learning_rate": 0.002, "instance_data_dir": str(fewer), "max_train_steps": 1}
    with caplog.at_level(logging.WARNING):
        run(config, **LATEST, **changes)
    assert "with learning_rate 0.002 instead of 0.001, other photos or captions." in caplog.text


def test_a_fresh_start_says_what_it_replaces(config, caplog):
    run(config, max_train_steps=3)
    with caplog.at_level(logging.WARNING):
        run(config, max_train_steps=2)
    assert "its first checkpoint replaces checkpoint-3 of an earlier training" in caplog.text
    assert [p.name for p in Path(config.output_dir).glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_loss_that_is_no_number_right_after_resuming_keeps_the_checkpoint(config, monkeypatch):
    stopped = run(config, max_train_steps=2)
    loss = Objective.loss
    monkeypatch.setattr(Objective, "loss", lambda *given: loss(*given) * float("nan"))
    result = run(config, **LATEST)
    assert result.exit_status == 1 and same(result.concept, stopped.concept)


def test_two_trainings_in_one_folder(config):
    def second(training, loss):
        with pytest.raises(ValueError, match="another training is writing into .*rex;"):
            run(config)

    assert run(config, second, max_train_steps=1).steps == 1
    assert run(config, max_train_steps=1).steps == 1


# What changes what is learned, though a training can go on with it; of a new setting somebody has
# to decide whether it belongs here, or to those that must match or may change.
REPORTED = {
    *("aspect_ratio_buckets", "alpha_mask", "center_crop", "random_flip", "repeats", "resolution"),
    *("use_aspect_ratio_buckets", "with_prior_preservation", "prior_loss_weight"),
    *("num_class_images", "instance_prompt", "placeholder_token", "initializer_token"),
    *("class_prompt", "caption_backgrounds", "delta_bits", "max_train_steps", "num_train_epochs"),
    *("train_batch_size", "gradient_accumulation_steps", "learning_rate", "text_encoder_lr"),
    *("scale_lr", "token_lr", "lr_scheduler", "lr_warmup_steps", "lr_num_cycles", "lr_power"),
    *("optimizer", "adam_beta1", "adam_beta2", "adam_weight_decay", "adam_epsilon"),
    *("adam_weight_decay_text_encoder", "prodigy_beta3", "prodigy_decouple", "max_grad_norm"),
    "ema_decay",
    *("prodigy_use_bias_correction", "prodigy_safeguard_warmup", "snr_gamma", "noise_offset"),
    *("weighting_scheme", "logit_mean", "logit_std", "mode_scale", "guidance_scale"),
    *("mixed_precision", "gradient_checkpointing", "quantize", "allow_tf32"),
}


def test_every_setting_must_match_may_change_or_is_reported(config, caplog):
    """Each is changed in what a checkpoint says of its training."""
    from svfit_diffusion.training.resuming import MAY_CHANGE, MUST_MATCH

    identity = Training(config, make_accelerator(config), progress=False).identity
    refused, reported, silent = set(), set(), set()
    for name in (field.name for field in fields(TrainConfig)):
        written = copy.deepcopy(identity.written())
        if name in written["settings"]:
            written["settings"][name] = "another value"
        caplog.clear()
        try:
            identity.check("checkpoint-1", written)
        except ValueError as error:
            refused |= {name} if f"--{name} another value" in str(error) else set()
        else:
            (reported if f"with {name} " in caplog.text else silent).add(name)
    assert refused == set(MUST_MATCH) and reported == REPORTED
    assert silent == MAY_CHANGE


def test_the_base_itself_is_not_changed(config):
    """What a checkpoint leaves out is at hand: the base's weights are those of its files."""
    kept = {}

    def keep(training, loss):
        kept.update(training.base.pipe.unet.state_dict())

    run(config, keep, max_train_steps=2)
    for name, value in load(config.pretrained_model_name_or_path).unet.state_dict().items():
        inner = [k for k in kept if k.replace(".base_layer", "") == name]
        assert torch.equal(kept[inner[0]], value)


def test_other_masks_and_class_images_are_reported(config, tmp_path, caplog):
    config = replace(
        elsewhere(config, "masked"), mask_data_dir=str(tmp_path / "masks"), max_train_steps=2,
        with_prior_preservation=True, class_data_dir=str(tmp_path / "class"), num_class_images=1,
    )  # fmt: skip
    for folder, colour in (("masks", "white"), ("class", "red")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (40, 32), colour).save(tmp_path / folder / "0.png")
    run(config)
    with caplog.at_level(logging.WARNING):
        run(config, **LATEST)
    assert "goes on with" not in caplog.text
    half = Image.new("L", (40, 32), "white")
    half.paste("black", (0, 0, 20, 32))
    half.save(tmp_path / "masks" / "0.png")
    Image.new("RGB", (40, 32), "blue").save(tmp_path / "class" / "0.png")
    with caplog.at_level(logging.WARNING):
        run(config, **LATEST)
    assert "goes on with other masks, other class images." in caplog.text
