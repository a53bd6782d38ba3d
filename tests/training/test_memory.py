"""The memory that is said beforehand, against what PyTorch's allocator counts in a real step."""

import pytest
import torch
from helpers.tiny_families import save_tiny, tiny_config
from helpers.tiny_pipelines import load
from torch import nn

from svfit_diffusion.cli.main import main
from svfit_diffusion.training.loop import Training
from svfit_diffusion.training.memory import estimate_memory
from svfit_diffusion.training.runtime import make_accelerator
from svfit_diffusion.training.traced_memory import META, Traced

LARGE = {"resolution": 128, "train_batch_size": 4}  # so that what a step takes counts


LARGER = pytest.param("sdxl", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["sd", LARGER, "flux"])
def root(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, root)
    return root


def config_of(root, **more):
    config = tiny_config(root, mixed_precision="no", train_token=False)
    return config.__class__(**{**vars(config), **LARGE, **more})


def allocated(run):
    """The most bytes that the CPU's allocator gave out beside what was there."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, profile_memory=True) as profiler:
        run()
    events = profiler.profiler.kineto_results.events()
    events = sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    now = most = 0
    for event in events:
        now += event.nbytes()
        most = max(most, now)
    return most


def test_a_storage_counts_while_it_lives():
    with Traced() as traced:
        one = torch.empty(1000, device=META)
        two = one + 1
        view = two[:10]
        del one
        three = torch.empty(500, device=META)
        assert traced.now == 6000 and traced.most == 8000
        del two, three
        assert traced.now == 4000  # held by the view
        del view
        assert traced.now == 0


def test_weights_and_their_views_do_not_count():
    layer = nn.Linear(1000, 1000, bias=False, device=META)
    with Traced(layer.parameters()) as traced:
        y = layer(torch.empty(2, 1000, device=META))
        (y.sum() * layer.weight.t()[0]).sum()
    assert 16_000 <= traced.most < 30_000


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_takes_what_is_said(root, checkpointing):
    config = config_of(root, gradient_checkpointing=checkpointing)
    training = Training(config, make_accelerator(config), progress=False)
    training._backward()
    real = allocated(training._backward)
    found = estimate_memory(config.pretrained_model_name_or_path, config)
    held = sum(found.weights.values())
    print(f"{root.name}: {found.step - held:,} said, {real:,} taken beside {held:,} of weights")
    assert 0.85 < (found.step - held) / real < 1.15


def test_weights_are_those_of_the_base(root):
    config = config_of(root, train_text_encoder=False)
    found, pipe = estimate_memory(config.pretrained_model_name_or_path, config), load(root / "base")
    for part, model in pipe.components.items():
        if isinstance(model, nn.Module):
            size = sum(p.nbytes for p in model.parameters())
            assert size <= found.weights[part] < 1.5 * size + 40_000, part  # and the directions


def test_decoding_a_picture_takes_what_is_said(root):
    config = config_of(root)
    pipe = load(root / "base")
    size = LARGE["resolution"] // pipe.vae_scale_factor

    @torch.no_grad()
    def decode():
        pipe.vae.decode(torch.zeros(1, pipe.vae.config.latent_channels, size, size))

    found = estimate_memory(config.pretrained_model_name_or_path, config)
    said = found.generating - sum(found.weights.values())
    assert said > 0.75 * allocated(decode)  # oneDNN pads the few channels of a tiny VAE


def test_each_flag_takes_less(root):
    def said(**more):
        return estimate_memory(str(root / "base"), config_of(root, **more))

    plain, again = said(), said(gradient_checkpointing=True)
    fp8 = said(gradient_checkpointing=True, quantize="fp8")
    away = said(gradient_checkpointing=True, offload="model")
    blocks = said(gradient_checkpointing=True, offload="block", quantize="fp8")
    assert again.step < plain.step and sum(fp8.weights.values()) < sum(again.weights.values())
    assert away.step < again.step and away.preparing < again.preparing
    assert blocks.step < away.step
    assert said(train_batch_size=1).step < plain.step and said(quantize="int8").step < plain.step


def test_what_is_left_out_is_said(tmp_path, capsys):
    """Z-Image's transformer asks which tokens are padding, and there are only shapes."""
    save_tiny("z-image", tmp_path)
    found = estimate_memory(str(tmp_path / "base"), config_of(tmp_path))
    assert "nonzero" in found.unknown and found.step == sum(found.weights.values())
    assert main(["info", "--base", str(tmp_path / "base"), "--memory", "--rank", "4"]) == 0
    assert "left out     all but the weights" in capsys.readouterr().out


def test_the_command_says_it(root, capsys):
    flags = ["--resolution", "64", "--train_batch_size", "2", "--gradient_checkpointing"]
    base = str(root / "base")
    assert main(["info", "--base", base, "--memory", "--rank", "4", *flags, "--offload"]) == 0
    said = capsys.readouterr().out
    assert "in a step of 2 pictures" in said and "generating" in said and "left out" not in said
    assert main(["info", "--base", base, "--memory", "--rank", "4", "--offload", "block"]) == 2
    assert "offload block without gradient_checkpointing" in capsys.readouterr().err
