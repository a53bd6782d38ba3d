"""What a training runs in: accelerate, optimizer and schedule, random numbers, attention."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration
from diffusers.optimization import get_scheduler
from torch import Tensor

from ..settings import TrainConfig
from .launcher import launched

# Of settings that need a package which is not always installed.
LIBRARIES = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "comet_ml": "comet_ml",
    "prodigy": "prodigyopt",
}


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Devices, processes, precision and logs, as configured, or as the launcher says.

    ValueError for fp16 on a CPU, and for a setting whose library is not installed.
    """
    config = launched(config)
    check_libraries(config)
    if config.allow_tf32 and torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = True
    project = ProjectConfiguration(
        config.output_dir, str(Path(config.output_dir, config.logging_dir))
    )
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=1,  # the loop accumulates: its batches are numbered
        log_with=config.report_to,
        project_config=project,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, find_unused_parameters=True)
        ],
    )
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError(  # accelerate would leave out autocast and scaling without a word
            "mixed_precision fp16 needs a GPU, and none was found; pass bf16 or no."
        )
    if config.report_to:
        accelerator.init_trackers("train_dreambooth_svfit")
    return accelerator


def check_libraries(config: TrainConfig) -> None:
    """ValueError where a setting needs a package that is not installed."""
    for setting, instead in (("report_to", "leave it out"), ("optimizer", "pass AdamW")):
        value = getattr(config, setting)
        package = LIBRARIES.get(value)
        if package and find_spec(package) is None:
            raise ValueError(
                f"{setting} {value} needs the package {package}; run `pip install {package}`, or "
                f"{instead}."
            )


def make_optimizer(
    config: TrainConfig, groups: dict[str, dict[str, Tensor]], scales: dict[str, float]
) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer, a rate for each group of parameters times the group's scale, its schedule.

    groups: "denoiser", "text", "common", and the rows of the trigger in each text encoder. What
    edits weights decays by its rate, without the scale, times the weight decay at each step; rows
    have no 0 to return to.
    """
    prodigy = config.optimizer == "prodigy"
    rates = {
        "denoiser": config.learning_rate,
        "text": config.text_encoder_lr or config.learning_rate,
        "common": config.learning_rate,
    }
    decay, text_decay = config.adam_weight_decay, config.adam_weight_decay_text_encoder
    decays = dict.fromkeys(rates, decay) | ({} if text_decay is None else {"text": text_decay})
    held = [
        {
            "params": list(group.values()),
            "lr": prodigy_rate(config)
            if prodigy
            else rates.get(kind, config.token_lr) * scales[kind],
            "weight_decay": decays.get(kind, 0.0) / (scales[kind] or 1.0),
        }
        for kind, group in groups.items()
        if group
    ]
    common = {"betas": (config.adam_beta1, config.adam_beta2), "eps": config.adam_epsilon}
    optimizer = _prodigy(held, config, common) if prodigy else torch.optim.AdamW(held, **common)
    schedule = get_scheduler(
        config.lr_scheduler,
        optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.most_steps,
        num_cycles=config.lr_num_cycles,
        power=config.lr_power,
    )
    return optimizer, schedule


def prodigy_rate(config: TrainConfig) -> float:
    """What multiplies the rate that prodigy finds: 1, unless a learning rate was asked for."""
    return 1.0 if config.learning_rate is None else config.learning_rate


def _prodigy(groups: list[dict], config: TrainConfig, common: dict) -> torch.optim.Optimizer:
    """Prodigy (arXiv 2306.06101), which takes one rate for all parameters."""
    from prodigyopt import Prodigy

    return Prodigy(
        groups,
        beta3=config.prodigy_beta3,
        decouple=config.prodigy_decouple,
        use_bias_correction=config.prodigy_use_bias_correction,
        safeguard_warmup=config.prodigy_safeguard_warmup,
        **common,
    )


def resume_schedule(schedule: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Put a schedule, and the optimizer's rates, where they stand after `step` steps."""
    schedule.last_epoch = step
    rates = [f(step) * rate for f, rate in zip(schedule.lr_lambdas, schedule.base_lrs, strict=True)]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates


@contextlib.contextmanager
def own_accelerate_state() -> Iterator[None]:
    """Leave the state that all of a process's Accelerators share to the caller's: a training has a
    precision of its own, and may follow one with another.
    """
    shared = [kind._shared_state for kind in (AcceleratorState, GradientState)]
    kept = [dict(state) for state in shared]
    for state in shared:
        state.clear()
    try:
        yield
    finally:
        for state, values in zip(shared, kept, strict=True):
            state.clear()
            state.update(values)


@contextlib.contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Leave PyTorch's global random numbers, of the CPU and of `device`, to the caller."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        yield


@contextlib.contextmanager
def deterministic_attention() -> Iterator[None]:
    """Attention by other kernels of PyTorch than cuDNN's.

    On Hopper GPUs the gradients of that one are NaN for some numbers of tokens
    (issues 196678 of pytorch/pytorch and 160 of NVIDIA/cudnn-frontend).
    """
    was = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(was)


def snapshot(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy of named parameters."""
    return {name: p.detach().clone() for name, p in parameters.items()}


@torch.no_grad()
def restore(parameters: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Write values into named parameters."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
