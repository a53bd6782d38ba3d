"""TrainConfig and its flags, and what the words are when only some are given."""

import argparse
from dataclasses import fields

import pytest

from svfit_diffusion.settings import TrainConfig, add_arguments, from_arguments


def parse(*arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(arguments))


def test_no_arguments_are_the_defaults():
    assert parse() == TrainConfig()


def test_flags_of_diffusers_script():
    config = parse(
        *[
            "--pretrained_model_name_or_path",
            "x/y",
            "--instance_data_dir",
            "d",
            "--class_data_dir",
            "c",
        ],
        *("--instance_prompt", "a photo of sks dog", "--class_prompt", "a photo of a dog"),
        *["--with_prior_preservation", "--prior_loss_weight", "0.5", "--num_class_images", "7"],
        *[
            "--output_dir",
            "o",
            "--seed",
            "3",
            "--resolution",
            "512",
            "--center_crop",
            "--random_flip",
        ],
        *["--no-train_text_encoder", "--train_batch_size", "2", "--sample_batch_size", "3"],
        *["--max_train_steps", "9", "--checkpointing_steps", "4", "--checkpoints_total_limit", "1"],
        *["--resume_from_checkpoint", "latest", "--gradient_accumulation_steps", "2"],
        *["--gradient_checkpointing", "--learning_rate", "1e-3", "--lr_scheduler", "cosine"],
        *[
            "--lr_warmup_steps",
            "2",
            "--snr_gamma",
            "5",
            "--mixed_precision",
            "bf16",
            "--report_to",
            "tensorboard",
        ],
        *[
            "--validation_steps",
            "3",
            "--num_validation_images",
            "1",
            "--rank",
            "full",
            "--noise_offset",
            "0.1",
        ],
        *("--validation_prompt", "sks dog"),
    )
    changed = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
    changed = {k: v for k, v in changed.items() if v != getattr(TrainConfig(), k)}
    assert changed == {
        "pretrained_model_name_or_path": "x/y", "instance_data_dir": "d", "class_data_dir": "c",
        "instance_prompt": "a photo of sks dog", "class_prompt": "a photo of a dog",
        "with_prior_preservation": True, "prior_loss_weight": 0.5, "num_class_images": 7,
        "output_dir": "o", "seed": 3, "resolution": 512, "center_crop": True, "random_flip": True,
        "train_text_encoder": False, "train_batch_size": 2, "sample_batch_size": 3,
        "max_train_steps": 9, "checkpointing_steps": 4, "checkpoints_total_limit": 1,
        "resume_from_checkpoint": "latest", "gradient_accumulation_steps": 2,
        "gradient_checkpointing": True, "learning_rate": 1e-3, "lr_scheduler": "cosine",
        "lr_warmup_steps": 2, "snr_gamma": 5.0, "mixed_precision": "bf16",
        "report_to": "tensorboard", "validation_steps": 3, "num_validation_images": 1,
        "rank": "full", "noise_offset": 0.1, "validation_prompt": "sks dog",
    }  # fmt: skip


def test_the_number_of_steps_may_be_automatic(capsys):
    assert parse("--max_train_steps", "auto").most_steps == 2_000
    assert parse("--max_train_steps", "7").most_steps == 7
    with pytest.raises(SystemExit):
        parse("--max_train_steps", "atuo")
    assert "'atuo' is neither a number nor 'auto'" in capsys.readouterr().err


def test_presets_yield_to_flags():
    assert parse("--preset", "paper").rank == "energy=0.99"
    assert not parse("--preset", "paper").train_token
    assert parse("--preset", "paper", "--rank", "4", "--train_token") == TrainConfig(
        rank="4", common_size=0, delta_bits=16, caption_backgrounds=False
    )
    assert parse("--preset", "tiniest") == TrainConfig(rank="4", common_size=0, num_vectors=1)


def ranks_of_values(*flags):
    """Those of the denoiser and of text encoders."""
    return tuple(parse(*flags).rank_of_values(text) for text in (False, True))


def test_the_ranks_of_values_and_outputs_follow_the_rank():
    assert ranks_of_values() == ("16", "16")
    assert ranks_of_values("--rank", "4") == ("4", "4")
    assert ranks_of_values("--rank", "4", "--text_encoder_rank", "8") == ("4", "8")
    assert ranks_of_values("--rank", "4", "--value_rank", "40") == ("40", "4")
    assert ranks_of_values("--preset", "paper") == ("energy=0.99", "energy=0.99")


def test_a_misspelt_flag_fails(capsys):
    with pytest.raises(SystemExit):
        parse("--learning-rte", "1")
    with pytest.raises(TypeError):
        TrainConfig(ranks=3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"instance_prompt": "a photo of sks dog"}, ("sks", "dog", "a photo of sks dog")),
        ({"instance_prompt": "TOK mug, on a table"}, ("TOK", "mug", "TOK mug, on a table")),
        ({"initializer_token": "dog"}, ("sks", "dog", "a photo of sks dog")),
        (
            {"placeholder_token": "rexy", "instance_prompt": "my rexy dog"},
            ("rexy", "dog", "my rexy dog"),
        ),
        (
            {"instance_prompt": "a sks teapot", "initializer_token": "thing"},
            ("sks", "thing", "a sks teapot"),
        ),
    ],
)
def test_words(given, words):
    assert TrainConfig(**given).words() == words


@pytest.mark.parametrize(
    "given",
    [{}, {"instance_prompt": "a photo of a dog"}],
)
def test_words_that_are_missing(given):
    with pytest.raises(ValueError, match="not said"):
        TrainConfig(**given).words()


def test_the_prompt_must_hold_the_token():
    given = {"instance_prompt": "a photo of asks dog", "initializer_token": "dog"}
    with pytest.raises(ValueError, match="lacks the placeholder token 'sks'"):
        TrainConfig(**given, placeholder_token="sks").words()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"max_train_steps": 0}, "max_train_steps is 0"),
        ({"max_train_steps": "atuo"}, "max_train_steps is 'atuo', but must be a number"),
        ({"max_train_steps": "auto", "lr_scheduler": "cosine"}, "does not know; pass a number"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"resolution": 100}, "multiple of 8"),
        ({"lr_scheduler": "none"}, "must be one of"),
        ({"mixed_precision": "fp8"}, "must be one of"),
        ({"with_prior_preservation": True}, "needs class_data_dir"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_cannot_be_is_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        TrainConfig(**given)


def test_the_file_is_named_like_its_folder():
    path = TrainConfig(output_dir="out/rex").concept_path
    assert path.parts[-3:] == ("out", "rex", "rex.safetensors")
