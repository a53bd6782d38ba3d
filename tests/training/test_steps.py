"""Steps of a training: what is added up, rates and decay, what is not finite, memory."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from helpers.tiny_pipelines import (
    first_gradients,
    in_two_processes,
    load,
    run,
    same,
)

from svfit_diffusion.concept.file import read_concept
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.objective import Denoiser, Objective
from svfit_diffusion.training.runtime import make_accelerator


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
