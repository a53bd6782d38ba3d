"""loop.py and what it stands on, on a tiny pipeline; every part is the real one."""

import itertools
import logging
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from helpers.tiny_pipelines import (
    first_gradients,
    in_two_processes,
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
from svfit_diffusion.training.objective import Denoiser, Objective
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


def near(found, wanted):
    """Whether gradients by name are the same to rounding; Adam would not see a factor of two."""
    assert found.keys() == wanted.keys() and all(g.norm() > 0 for g in wanted.values())
    return all((found[n] - g).norm() < 1e-4 * g.norm() for n, g in wanted.items())


def test_accumulation_is_a_larger_batch(config):
    large = first_gradients(config, train_batch_size=4)
    small = first_gradients(config, train_batch_size=2, gradient_accumulation_steps=2)
    other = first_gradients(config, train_batch_size=2)
    assert near(small, large) and not near(other, large)


def test_two_processes_are_one_with_twice_the_batch(config, tmp_path):
    two = replace(config, output_dir=str(tmp_path / "two" / "rex"), max_train_steps=3)
    found = in_two_processes(two)
    assert near(found, first_gradients(config, train_batch_size=4))
    concept, one = (
        read_concept(two.concept_path),
        run(config, train_batch_size=4, max_train_steps=3),
    )
    assert concept.training["batch"] == 4
    assert np.allclose(concept.deltas, one.concept.deltas, atol=1e-3)
    assert np.allclose(concept.trigger_rows, one.concept.trigger_rows, atol=1e-3)


def test_a_loss_that_is_no_number_keeps_the_last_good_state(config, monkeypatch):
    good = run(config, max_train_steps=2)
    loss = Objective.loss

    def broken(self, model, number):
        value = loss(self, model, number)
        return value * float("nan") if number == 3 else value

    monkeypatch.setattr(Objective, "loss", broken)
    result = run(config, max_train_steps=9)
    assert result.steps == 3 and result.exit_status == 1
    assert "step 4, or its gradient, was not a finite number" in result.stopped
    assert same(result.concept, good.concept)  # the parameters of the last finite loss


def test_a_gradient_that_is_no_number_changes_nothing(config):
    """As attention's backward may give it, though the loss is in order."""
    good = run(config, max_train_steps=2)

    def break_next(training, _):
        if training.step == 2:
            next(iter(training.parameters.values())).register_hook(lambda grad: grad * float("nan"))

    result = run(config, break_next, max_train_steps=9)
    assert result.steps == 2 and result.exit_status == 1
    assert "step 3, or its gradient, was not a finite number" in result.stopped
    assert same(result.concept, good.concept)


def test_gradients_that_overflow_are_skipped_and_not_for_ever(config, tmp_path):
    """fp16's way, whose scaler is here for a CPU. A step that was skipped is made again: neither
    the schedule nor the number of steps goes on. Always is no training.
    """

    def with_scaler(name, breaks):
        accelerator = make_accelerator(config)
        accelerator.scaler = torch.amp.GradScaler("cpu")
        given = replace(config, output_dir=str(tmp_path / name), max_train_steps=10)
        # beyond fp16 accelerate would clip gradients that are still scaled: so none are clipped
        given = replace(given, lr_scheduler="linear", max_grad_norm=1e30)
        training = Training(given, accelerator, progress=False)
        made = itertools.count(1)
        first = next(iter(training.parameters.values()))
        first.register_hook(lambda g: g * float("inf") if breaks(next(made)) else g)
        return training.run(), training, next(made) - 1

    well, training, tries = with_scaler("once", lambda number: number == 2)
    plain, _, _ = with_scaler("never", lambda _: False)
    assert (well.steps, training.schedule.last_epoch, tries) == (10, 10, 11) and not well.stopped
    assert same(well.concept, plain.concept) and plain.concept.deltas.any()
    ill, training, tries = with_scaler("always", lambda _: True)
    assert (ill.steps, training.schedule.last_epoch, tries) == (0, 0, 21)
    assert ill.exit_status == 1 and not ill.concept.deltas.any()


def test_what_is_evaluated_at_once_takes_no_more_memory_than_a_step(config, photos, monkeypatch):
    """A GPU that can train must be able to evaluate: views one by one, twice a batch for a loss."""
    encoded, predicted = [], []
    encode, forward = AutoencoderKL.encode, Denoiser.forward

    def encode_counted(self, pixels, *rest):
        encoded.append(len(pixels))
        return encode(self, pixels, *rest)

    def forward_counted(self, noisy, *rest):
        predicted.append((torch.is_grad_enabled(), len(noisy)))
        return forward(self, noisy, *rest)

    monkeypatch.setattr(AutoencoderKL, "encode", encode_counted)
    monkeypatch.setattr(Denoiser, "forward", forward_counted)
    run(config, train_batch_size=1, random_flip=True, caption_backgrounds=True, max_train_steps=2)
    assert set(encoded) == {1} and len(encoded) >= 2 * len(list(photos.iterdir()))
    assert {(True, 1), (False, 2)} <= set(predicted) <= {(True, 1), (False, 1), (False, 2)}


def test_cudnns_attention_is_off_while_a_training_runs(config):
    """Its gradients are NaN on some GPUs; who calls us has it back."""
    seen = []
    torch.backends.cuda.enable_cudnn_sdp(True)
    run(config, lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled()))
    assert set(seen) == {False} and torch.backends.cuda.cudnn_sdp_enabled()


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


def test_values_and_outputs_of_the_text_encoder_have_a_rank_of_their_own(config, base_folder):
    result = run(config, text_encoder_rank="6", max_train_steps=8)
    pipe = load(base_folder)
    plan = layout({"unet": pipe.unet, "text_encoder": pipe.text_encoder}, result.concept.targets)
    wide = [p.name for p, rank in zip(plan, result.concept.ranks, strict=True) if rank == 6]
    layers = pipe.text_encoder.config.num_hidden_layers
    assert wide == [
        f"text_encoder.text_model.encoder.layers.{i}.self_attn.{name}"
        for i in range(layers)
        for name in ("out_proj", "v_proj")
    ]
    assert set(result.concept.ranks) == {4, 6}
    load_concept(pipe, result.path)


def test_rates_are_relative_to_what_the_base_has(config, base_folder):
    """And the word's to the table of embeddings; the common vector's matrices are together as large
    as the vector would be, of such singular values.
    """
    config = replace(config, learning_rate=0.1, text_encoder_lr=0.2, token_lr=0.3)
    training = Training(config, make_accelerator(config), progress=False)
    pipe, expected = load(base_folder), []
    for rate, part in ((0.1, "unet"), (0.2, "text_encoder")):
        names = training.base.parameter_groups()["denoiser" if part == "unet" else "text"]
        names = [name.removeprefix(f"{part}.") for name in names]
        weights = [getattr(pipe, part).get_submodule(name).weight for name in names]
        values = torch.cat([torch.linalg.svdvals(weight.detach()) for weight in weights])
        expected.append(rate * values.square().mean().sqrt().item())
    held = [pipe.unet.get_submodule(name.removeprefix("unet.")).weight
            for name in training.base.parameter_groups()["denoiser"]]  # fmt: skip
    entries = sum(weight.shape[1] * min(4, *weight.shape) for weight in held)
    expected.append(expected[0] * np.sqrt(4096 / entries) * 32)
    rates = [group["lr"] for group in training.optimizer.param_groups]
    table = pipe.text_encoder.get_input_embeddings().weight.detach()
    expected.append(0.3 * np.sqrt(np.mean(table.numpy().astype(float) ** 2)))
    assert rates == pytest.approx(expected, rel=1e-5)


def test_what_edits_weights_decays_by_its_own_rate_and_a_word_does_not(config):
    """Whatever the sizes of the base's weights are."""
    rates = {"learning_rate": 0.1, "text_encoder_lr": 0.2, "token_lr": 0.3}
    config = replace(config, **rates, adam_weight_decay=0.5, adam_weight_decay_text_encoder=0.25)
    training = Training(config, make_accelerator(config), progress=False)
    groups = training.base.parameter_groups()
    for group in groups.values():
        for parameter in group.values():
            torch.nn.init.ones_(parameter)
            parameter.grad = torch.zeros_like(parameter)
    training.optimizer.step()
    left = {"denoiser": 1 - 0.1 * 0.5, "text": 1 - 0.2 * 0.25, "common": 1 - 0.1 * 0.5}
    for kind, group in groups.items():
        for parameter in group.values():
            assert parameter.detach().numpy() == pytest.approx(left.get(kind, 1.0), rel=1e-6)
    assert {*left} < {*groups}


def test_gradient_checkpointing_computes_again_and_changes_nothing(config):
    def counted(checkpointing):
        """The first gradients, and how often a block and a layer of each model ran for them."""
        given = replace(config, gradient_checkpointing=checkpointing)
        training = Training(given, make_accelerator(given), progress=False)
        pipe, calls = training.base.pipe, {"unet": 0, "text_encoder": 0}
        block = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
        layer = pipe.text_encoder.encoder.layers[0].self_attn.q_proj
        for name, module in (("unet", block), ("text_encoder", layer)):
            module.register_forward_hook(
                lambda *_, name=name: calls.update({name: calls[name] + 1})
            )
        training._backward()
        return {n: p.grad for n, p in training.parameters.items()}, calls

    (plain, once), (again, twice) = counted(False), counted(True)
    assert once == {"unet": 1, "text_encoder": 1} and twice == {"unet": 2, "text_encoder": 2}
    assert near(again, plain)


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
