"""loop.py and what it stands on, on a tiny pipeline; every part is the real one."""

import logging
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.tiny_pipelines import (
    load,
    picture,
    run,
    same,
)
from PIL import Image

from svfit_diffusion.adapter.attention import layout
from svfit_diffusion.cli.main import main
from svfit_diffusion.concept.file import read_concept
from svfit_diffusion.pipeline.loading import load_concept
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.runtime import make_accelerator


@pytest.mark.parametrize("bits", [4, 16])
def test_the_loss_at_fixed_noise_falls_and_the_file_is_what_is_returned(config, bits):
    result = run(config, max_train_steps=30, train_batch_size=4, delta_bits=bits)
    assert result.loss_after < result.loss_before and not result.stopped
    concept = read_concept(result.path)
    assert result.path.name == "rex.safetensors" and same(concept, result.concept)
    assert (concept.trigger, concept.base, concept.rank) == ("sks dog", "tiny", "4")
    assert concept.training["steps"] == 30 and concept.packed == (bits == 4)
    if bits == 16:
        assert np.abs(concept.deltas).min() > 0
    else:  # small ones round to zero
        assert np.mean(concept.deltas != 0) > 0.5


def test_directions_of_equal_singular_values_are_trained_as_one(config, base_folder, tmp_path):
    """Else another factorisation of the same base would draw something else from the file."""
    pipe = load(base_folder)
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = pipe.unet.get_submodule(name).weight
    values = torch.linspace(1, 0.5, len(weight))
    values[1] = values[0]
    weight.data = torch.diag(values)
    pipe.to(torch.float16).save_pretrained(tmp_path / "base")
    result = run(config, pretrained_model_name_or_path=str(tmp_path / "base"))
    plan = layout({"unet": pipe.unet, "text_encoder": pipe.text_encoder}, result.concept.targets)
    deltas = np.split(result.concept.deltas, np.cumsum(result.concept.ranks)[:-1])
    delta = next(d for p, d in zip(plan, deltas, strict=True) if p.local == name)
    assert delta[0] == delta[1] != 0 and len(set(delta.tolist())) == 3
    load_concept(load(tmp_path / "base"), result.path)


def test_the_settings_beside_a_concept_train_the_same_file(config, tmp_path):
    first = run(replace(config, num_train_epochs=3, scale_lr=True, created=None))
    beside = first.path.with_name("run.yaml")
    again = tmp_path / "again" / "rex"
    assert main(["train", "--config", str(beside), "--output_dir", str(again)]) == 0
    assert (again / "rex.safetensors").read_bytes() == first.path.read_bytes()
    assert (again / "run.yaml").read_bytes() == beside.read_bytes()
    assert first.concept.created[:2] == "20", "the time of the first"


@pytest.mark.parametrize("train_token", [True, False])
def test_a_fresh_pipeline_generates_the_same_to_the_last_bit(config, base_folder, train_token):
    config = replace(config, train_token=train_token)
    training = Training(config, make_accelerator(config), progress=False)
    result = training.run()
    trained = training.base
    prompt = "a photo of sks dog"
    with torch.no_grad():
        mine = picture(trained.pipe, prompt)
    fresh = load(base_folder)
    before = picture(fresh, prompt)
    load_concept(fresh, result.path)
    assert torch.equal(picture(fresh, prompt), mine) and not torch.equal(before, mine)


def test_the_loss_is_the_published_one(config, base_folder):
    """With deltas at zero: |noise - unet(sqrt(a) x + sqrt(1 - a) noise)|^2, by hand."""
    config = replace(config, train_token=False)
    training = Training(config, make_accelerator(config), progress=False)
    objective = training.objective
    loss = objective.loss(training.model, 3).item()
    from svfit_diffusion.data.examples import sample_batch

    batch = sample_batch(training.subject.examples, 0, range(6, 8), 1000)
    pipe = load(base_folder)
    betas = torch.linspace(0.0001**0.5, 0.02**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[batch.steps].view(-1, 1, 1, 1)
    noisy = (kept.sqrt() * batch.latents + (1 - kept).sqrt() * batch.noise).float()
    ids = pipe.tokenizer(
        ["a photo of sks dog"] * 2, padding="max_length", max_length=16, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        text = pipe.text_encoder(ids)[0]
        predicted = pipe.unet(noisy, batch.steps, text).sample
    by_hand = (predicted - batch.noise).square().mean().item()
    assert loss == pytest.approx(by_hand, rel=1e-5)


def test_latents_are_the_vaes(config, base_folder):
    training = Training(config, make_accelerator(config), progress=False)
    examples, pipe = training.subject.examples, load(base_folder)
    image = Image.open(os.path.join(config.instance_data_dir, "1.png")).crop((4, 0, 36, 32))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        mean = pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor
    middle = examples.variants[1][1]  # of three places along the longer side
    assert torch.allclose(examples.mean[middle], mean[0], atol=1e-4)


def test_prior_preservation_generates_what_is_missing(config, tmp_path):
    folder = tmp_path / "class"
    prior = {"with_prior_preservation": True, "class_data_dir": str(folder)}
    with_prior = run(config, **prior, num_class_images=3, sample_batch_size=2)
    assert len(list(folder.glob("*.png"))) == 3
    times = {p: p.stat().st_mtime_ns for p in folder.glob("*.png")}
    gone = folder / "class-00001.png"
    gone.unlink()
    run(config, **prior, num_class_images=4)
    assert len(list(folder.glob("*.png"))) == 4
    assert all(p.stat().st_mtime_ns == t for p, t in times.items() if p != gone)
    assert not same(with_prior.concept, run(config).concept)  # its weight: test_objective.py


def test_what_is_frozen_is_not_in_the_file_and_text_is_encoded_once(config, monkeypatch):
    calls = []
    from svfit_diffusion.families import StableDiffusion

    inner = StableDiffusion.encode_text

    def counted(self, pipe, ids, read):
        calls.append(1)
        return inner(self, pipe, ids, read)

    monkeypatch.setattr(StableDiffusion, "encode_text", counted)
    result = run(config, train_text_encoder=False, train_token=False, attention="cross")
    assert result.concept.targets == {"unet": "cross"} and result.concept.trigger_rows is None
    assert len(calls) == 1  # one caption


def ranks_of(pipe, concept, rank):
    """The rank of each projection of a concept, by numpy's singular values."""
    models = {part: getattr(pipe, part) for part in concept.targets}
    found = []
    for place in layout(models, concept.targets):
        weight = models[place.part].get_submodule(place.local).weight.detach().double().numpy()
        energy = np.cumsum(np.linalg.svd(weight, compute_uv=False) ** 2)
        found.append(len(energy) if rank is None else int(np.sum(energy < rank * energy[-1])) + 1)
    return tuple(found)


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        (
            {"mixed_precision": "bf16"},
            lambda training, *_: (
                (
                    {training.base.pipe.unet.dtype, training.base.pipe.text_encoder.dtype},
                    training.base.pipe.vae.dtype,
                    {p.dtype for p in training.parameters.values()},
                )
                == ({torch.bfloat16}, torch.float32, {torch.float32})
            ),
        ),
        (
            {"noise_offset": 0.1, "random_flip": True},
            lambda training, *_: [len(v) for v in training.subject.examples.variants] == [6] * 3,
        ),
        (
            {"rank": "energy=0.5", "num_vectors": 2},
            lambda _, concept, pipe: (
                concept.ranks == ranks_of(pipe, concept, 0.5)
                and concept.trigger_shape == {"text_encoder": (2, 32)}
            ),
        ),
        (
            {"rank": "full", "train_text_encoder": False},
            lambda _, concept, pipe: (
                concept.ranks == ranks_of(pipe, concept, None)
                and concept.targets == {"unet": "both"}
            ),
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_train(config, changes, seen, base_folder):
    """Each does what it says, and something is learned with it."""
    kept = []
    result = run(config, lambda t, _: kept.append(t), **changes, max_train_steps=8)
    assert result.loss_after < result.loss_before
    assert seen(kept[0], result.concept, load(base_folder))
    load_concept(load(base_folder), result.path)


@pytest.mark.parametrize(
    ("flag", "part", "endings"),
    [
        ("text_encoder_rank", "text_encoder", (".out_proj", ".v_proj")),
        ("value_rank", "unet", (".to_out.0", ".to_v")),
    ],
)
def test_values_and_outputs_have_a_rank_of_their_own(config, base_folder, flag, part, endings):
    """Also in the directions that a common vector acts in; a pipeline loads it."""
    result = run(config, common_size=64, max_train_steps=8, **{flag: "6"})
    pipe = load(base_folder)
    plan = layout({"unet": pipe.unet, "text_encoder": pipe.text_encoder}, result.concept.targets)
    ranks = dict(zip((p.name for p in plan), result.concept.ranks, strict=True))
    wide = [name for name in ranks if name.startswith(f"{part}.") and name.endswith(endings)]
    assert wide and ranks == dict.fromkeys(ranks, 4) | dict.fromkeys(wide, 6)
    assert result.concept.common.any()
    load_concept(pipe, result.path)


def test_captions_and_skipped_files(config, photos, tmp_path, caplog):
    folder = tmp_path / "captioned"
    folder.mkdir()
    for i in range(2):
        (folder / f"{i}.png").write_bytes((photos / f"{i}.png").read_bytes())
    (folder / "1.txt").write_text("sks dog on the beach")
    (folder / "notes.pdf").write_bytes(b"%PDF")
    with caplog.at_level(logging.WARNING):
        given = replace(config, instance_data_dir=str(folder))
        training = Training(given, make_accelerator(given), progress=False)
    assert training.subject.examples.captions == ("a photo of sks dog", "sks dog on the beach")
    assert "skipped" in caplog.text and "notes.pdf" in caplog.text


def test_validation_pictures_and_log(config):
    run(config, validation_prompt="sks dog", validation_steps=2, num_validation_images=2,
        report_to="tensorboard", max_train_steps=3)  # fmt: skip
    folder = config.concept_path.parent
    drawn = sorted(p.name for p in (folder / "validation").iterdir())
    assert drawn == ["000002.png", "000003.png"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (folder / "logs").rglob("events*")
    log = EventAccumulator(str(events.parent))
    log.Reload()
    assert [e.step for e in log.Scalars("loss")] == [1, 2, 3]
    assert log.Tags()["images"]


def test_as_many_checkpoints_are_kept_as_are_asked_for(config):
    run(config, max_train_steps=5, checkpointing_steps=1, checkpoints_total_limit=2)
    kept = sorted(p.name for p in config.concept_path.parent.glob("checkpoint-*"))
    assert kept == ["checkpoint-4", "checkpoint-5"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rank": "many"}, "rank is 'many'"),
        ({"text_encoder_rank": "few"}, "rank is 'few'"),
        ({"instance_data_dir": "/no/such/folder"}, "/no/such/folder"),
        ({"pretrained_model_name_or_path": "nobody/nothing"}, "the Hub cannot be reached"),
        ({"instance_data_dir": None}, "no photos"),
        pytest.param(
            {"mixed_precision": "fp16"},
            "fp16 needs a GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="of a CPU"),
        ),
    ],
)
def test_mistakes_are_one_sentence(config, changes, reason):
    with pytest.raises(ValueError, match=reason) as error:
        run(config, **changes)
    assert "\n" not in str(error.value)
