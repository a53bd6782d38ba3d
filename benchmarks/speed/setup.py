"""The bases and files of the speed benchmarks, and their timing: pairs in turn, in one process.

The bases are Toybox and Stable Diffusion 1.5's true configuration, whose random projections have a
decaying spectrum. LoRAs have the same projections as the concepts.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from platformdirs import user_cache_path

from benchmarks.families.true_bases import build
from svfit_diffusion import load_base, toybox, write_concept
from svfit_diffusion.adapter.attention import patch_attention, unpatch_attention
from svfit_diffusion.adapter.config import PROJECTIONS
from svfit_diffusion.adapter.tuner import SVFitConfig
from svfit_diffusion.concept import Concept
from svfit_diffusion.concept.packing import blocks, round_to_four_bits
from svfit_diffusion.families import recognise
from svfit_diffusion.generation.sampling import pick_device
from svfit_diffusion.pipeline.matching import concept_fields, with_self_check
from svfit_diffusion.settings.options import COMMON_SIZE, RANK, ROWS

SD15, TOYBOX = "Stable Diffusion 1.5", "Toybox"
TARGETS = {"unet": "both", "text_encoder": "self"}


@dataclass(frozen=True)
class Row:
    """One row of the table: medians of both sides, and the median of their ratios with its range.

    unit: of ours and theirs. goal: the largest acceptable ratio (ours / theirs), or None. reason:
    why a goal is not met, if it is not.
    """

    claim: str
    against: str
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    goal: float | None
    unit: str = "s"
    note: str = ""
    reason: str = ""

    def as_dict(self) -> dict:
        return asdict(self)


def folder() -> Path:
    """The folder for bases, concepts and LoRAs of the benchmarks."""
    path = user_cache_path("svfit-diffusion") / "benchmarks"
    path.mkdir(parents=True, exist_ok=True)
    return path


def base(name: str) -> Path:
    """The diffusers folder of a base; all but Toybox are built on first use (2 GB and more)."""
    if name == TOYBOX:
        return Path(toybox.path())
    path = folder() / f"{name.lower().replace(' ', '-')}-random"
    if not (path / "model_index.json").is_file():
        build(name, path, pick_device())
    return path


def pipeline(name: str) -> StableDiffusionPipeline:
    """A base in float32, as `svfit generate` loads it, without progress bars."""
    pipe = load_base(str(base(name)))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def concept(
    pipe: Any,
    rank: int | str = RANK,
    seed: int = 0,
    common: int = COMMON_SIZE,
    packed: bool = False,
) -> Path:
    """The file of a concept with random values, by default with as many as the default trains.

    common: size of its common vector. packed: in four bits.
    """
    bits = 4 if packed else 16
    name = (
        f"{type(pipe.unet).__name__}-{pipe.unet.config.sample_size}-{rank}-{common}-{bits}-{seed}"
    )
    path = folder() / f"{name}.safetensors"
    family, random = recognise(pipe), np.random.default_rng(seed)
    models = {part: getattr(pipe, part) for part in TARGETS}
    for part, attention in TARGETS.items():
        size = common if part == "unet" else 0
        config = SVFitConfig(r=rank, common=size, base_dtype=family.dtype)
        patch_attention(models[part], config, "m", attention)
    fields = concept_fields(models, TARGETS, family, "m")
    for model in models.values():
        unpatch_attention(model, "m")
    width = pipe.text_encoder.config.hidden_size
    fields |= {
        "deltas": random_values(random, fields["ranks"], packed),
        "common": random_values(random, blocks(1, common), packed) if common else None,
        "packed": packed,
        "packed_words": packed,
    }
    made = Concept(
        rank=str(rank),
        base=pipe.config._name_or_path,
        token="sks",
        class_word="dog",
        trigger_rows=random_values(random, blocks(ROWS, width), packed),
        trigger_shape={"text_encoder": (ROWS, width)},
        **fields,
    )
    write_concept(with_self_check(made, models, family), path)
    return path


def random_values(random: Any, sizes: Iterable[int], packed: bool) -> np.ndarray:
    """Random numbers, in four bits with a scale for each of these sizes."""
    parts = [(0.05 * random.standard_normal(size)).astype(np.float16) for size in sizes]
    return np.concatenate([round_to_four_bits(p) for p in parts] if packed else parts)


def lora_config(rank: int = 4) -> LoraConfig:
    """LoRA as diffusers' DreamBooth script sets it up, on the same projections as ours."""
    return LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(PROJECTIONS)
    )


def lora(pipe: Any, rank: int = 4, seed: int = 0, text: bool = True) -> Path:
    """The folder of a LoRA file with random weights, in diffusers' format."""
    path = folder() / f"lora-{pipe.unet.config.sample_size}-{rank}-{seed}-{int(text)}"
    torch.manual_seed(seed)
    parts = {"unet": pipe.unet} | ({"text_encoder": pipe.text_encoder} if text else {})
    states = {}
    for part, model in parts.items():
        model.add_adapter(lora_config(rank), "m")
        for key, value in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(value, std=0.01)
        states[f"{part}_lora_layers"] = get_peft_model_state_dict(model, adapter_name="m")
    StableDiffusionPipeline.save_lora_weights(path, **states)
    pipe.unload_lora_weights()
    return path


@contextlib.contextmanager
def empty_cache() -> Iterator[Path]:
    """Use a new, empty cache of bases during the block."""
    kept = os.environ.get("SVFIT_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SVFIT_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop("SVFIT_CACHE")
            if kept is not None:
                os.environ["SVFIT_CACHE"] = kept


def seconds(action: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call, as they pass, or by another clock."""
    gc.collect()
    start = clock()
    action()
    return clock() - start


@contextlib.contextmanager
def one_thread() -> Iterator[Callable[[], float]]:
    """During the block all is computed in one thread; gives the clock of the processor's seconds,
    which other work on the machine changes less than those that pass.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield time.process_time
    finally:
        torch.set_num_threads(before)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Where the median is with a probability of at least 95 %, whatever the distribution: between
    two of the sorted values (the sign test); of fewer than six the least and the largest.
    """
    values, tail, below = sorted(values), 0.0, 0
    for below in range(len(values) // 2):
        tail += math.comb(len(values), below) / 2 ** len(values)
        if tail > 0.025:
            break
    first = max(0, below - 1)
    return values[first], values[-1 - first]


def paired(
    claim: str,
    against: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    goal: float | None,
    rounds: int = 5,
    between: tuple[Callable[[], Any], Callable[[], Any]] = (lambda: None, lambda: None),
    warm: bool = True,
    note: str = "",
    clock: Callable[[], float] = time.perf_counter,
    reason: str = "",
) -> Row:
    """Time both in turn, `rounds` times; `between` undoes each, without being timed."""
    times: list[tuple[float, float]] = []
    for index in range(rounds + warm):
        pair = []
        for action, undo in zip((ours, theirs), between, strict=True):
            pair.append(seconds(action, clock))
            undo()
        if index >= warm:
            times.append(tuple(pair))
    return compared(claim, against, *map(list, zip(*times, strict=True)), goal, note, reason)


def compared(
    claim: str,
    against: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    goal: float | None,
    note: str = "",
    reason: str = "",
) -> Row:
    """The row of times that were measured in turn."""
    ratios, median = [a / b for a, b in zip(ours, theirs, strict=True)], statistics.median
    return Row(claim, against, median(ours), median(theirs), median(ratios), *interval(ratios),
               goal, note=note, reason=reason)  # fmt: skip
