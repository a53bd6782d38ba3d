"""Claims on a CUDA GPU, on bases of their true size: training, its memory, loading, generation.

    python -m benchmarks.speed --only gpu --diffusers-script PATH/train_dreambooth_lora.py

Training scripts run one after another, each in a process that records the time of every optimizer
step and the peak of allocated memory; diffusers' scripts for SDXL and FLUX.1 are expected beside
the given one. $SVFIT_GPU_PARTS selects some of the parts ("sd15,load").
"""

from __future__ import annotations

import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.families.true_size import photos
from benchmarks.speed.load import one_after_another, weights
from benchmarks.speed.setup import SD15, Row, base, concept, empty_cache, lora, paired
from svfit_diffusion import fuse_concepts, load_base, load_concept, remove_concept, swap_concept

ROOT = Path(__file__).parents[2]
OURS = str(ROOT / "train_dreambooth_svfit.py")
WRAPPER = str(ROOT / "benchmarks" / "speed" / "lora_script.py")
LORA = ("--rank", "4", "--train_text_encoder")
SDXL, FLUX = "SDXL 1.0", "FLUX.1 dev"
SCRIPTS = {SD15: "", SDXL: "_sdxl", FLUX: "_flux"}
SIZES = {SD15: 512, SDXL: 1024, FLUX: 512}  # px
CARDS = {SD15: 8, SDXL: 16, FLUX: 24}  # GB of memory of common cards
COMMON = {
    SD15: ("--mixed_precision", "fp16"),
    SDXL: ("--mixed_precision", "fp16", "--gradient_checkpointing"),
    FLUX: ("--mixed_precision", "bf16", "--gradient_checkpointing"),
}
SMALL = {
    SD15: ("--gradient_checkpointing",),
    SDXL: ("--offload",),
    FLUX: ("--offload", "--quantize", "4bit"),
}


def spent(name: str, steps: int, script: tuple[str, ...], *more: str) -> dict[str, float]:
    """A training script's median seconds per step after the fifth, and peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        photos(Path(folder, "photos"))
        flags = [
            *("--pretrained_model_name_or_path", str(base(name)), "--train_batch_size", "1"),
            *("--instance_data_dir", str(Path(folder, "photos"))),
            *("--instance_prompt", "a photo of sks dog", "--resolution", str(SIZES[name])),
            *("--max_train_steps", str(steps), "--output_dir", str(Path(folder, "out"))),
        ]
        command = [
            sys.executable,
            "-m",
            "benchmarks.speed.gpu",
            *script,
            *flags,
            *COMMON[name],
            *more,
        ]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        return found | {"whole": time.perf_counter() - start}


def inside(script: str) -> None:
    """Run a training script in this process, and print its time and memory."""
    times: list[float] = []

    def stepped(*_: Any) -> None:
        torch.cuda.synchronize()
        times.append(time.perf_counter())

    register_optimizer_step_post_hook(stepped)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
    gaps = [b - a for a, b in zip(times[5:], times[6:], strict=False)]
    peak = torch.cuda.max_memory_allocated() / 1e9
    print(json.dumps({"step": statistics.median(gaps), "GB": peak}))


def training(name: str, steps: int) -> list[Row]:
    """Time and memory of our training step, against diffusers' script if there is one, and a card.

    Ours recognises no backgrounds here, as diffusers' does not.
    """
    setting = f"{name}, {SIZES[name]} px, batch 1"
    ours = spent(name, steps, (OURS,), "--no-caption_backgrounds")
    small = spent(name, steps, (OURS,), "--no-caption_backgrounds", *SMALL[name])
    print(name, "ours", ours, "small", small, flush=True)
    rows = [
        _row(f"training memory, {setting}, with {' '.join(SMALL[name])}",
             f"a card of {CARDS[name]} GB", small["GB"], CARDS[name], 1.0, "GB")
    ]  # fmt: skip
    if not (script := diffusers_script(name)):
        return rows
    theirs = spent(name, steps, (WRAPPER, str(script)), *LORA)
    print(name, "LoRA", theirs, flush=True)
    return [
        _row(f"training step of the script, {setting}", f"diffusers' {script.name}, rank 4",
             ours["step"], theirs["step"], 0.95),
        _row(f"training memory, {setting}", f"diffusers' {script.name}, rank 4",
             ours["GB"], theirs["GB"], 1.0, "GB"),
        *rows,
    ]  # fmt: skip


def whole(steps: int) -> list[Row]:
    """A whole training on Stable Diffusion 1.5, including the recognition of backgrounds."""
    if not (script := diffusers_script(SD15)):
        return []
    ours, theirs = spent(SD15, steps, (OURS,)), spent(SD15, steps, (WRAPPER, str(script)), *LORA)
    print("whole", ours, "LoRA", theirs, flush=True)
    return [
        _row(f"whole script, {steps} steps, {SD15}, five photos", f"diffusers' {script.name}",
             ours["whole"], theirs["whole"], None)
    ]  # fmt: skip


def diffusers_script(name: str) -> Path | None:
    """Diffusers' training script for a base, if it exists."""
    given = os.environ.get("DIFFUSERS_LORA_SCRIPT")
    path = Path(given).with_name(f"train_dreambooth_lora{SCRIPTS[name]}.py") if given else None
    return path if path and path.is_file() else None


def _row(
    claim: str, against: str, ours: float, theirs: float, goal: float | None, unit: str = "s"
) -> Row:
    ratio = ours / theirs
    return Row(claim, against, ours, theirs, ratio, ratio, ratio, goal, unit)


def on_gpu() -> Any:
    """Stable Diffusion 1.5 in float16 on the GPU, without progress bars."""
    pipe = load_base(str(base(SD15)), torch.float16).to("cuda")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def finished(action: Callable[[], Any]) -> Callable[[], None]:
    """The action, followed by a wait for the GPU."""

    def call() -> None:
        action()
        torch.cuda.synchronize()

    return call


def loading(rounds: int) -> list[Row]:
    """First load, cached load and swap of a concept."""
    pipe, other = on_gpu(), on_gpu()
    files = [concept(pipe, seed=seed) for seed in (0, 1)]
    adapters = [lora(other, 4, seed) for seed in (0, 1)]
    found = weights(pipe)

    def first() -> None:
        with empty_cache():
            load_concept(pipe, files[0], name="rex")

    def svds() -> None:
        one_after_another([weight.float() for weight in found])

    def take(adapter: Path) -> None:
        other.load_lora_weights(adapter, adapter_name="lora")

    def reload() -> None:
        other.unload_lora_weights()
        take(adapters[1])

    away = (lambda: remove_concept(pipe, "rex"), other.unload_lora_weights)
    rows = [
        paired("first load", "SVD of each weight in turn on the GPU", finished(first),
               finished(svds), 1 / 3, 1, (away[0], lambda: None), warm=False),
        paired("load, basis cached", "load_lora_weights, rank 4",
               finished(lambda: load_concept(pipe, files[0], name="rex")),
               finished(lambda: take(adapters[0])), 1.0, rounds, away),
    ]  # fmt: skip
    load_concept(pipe, files[0], name="rex")
    take(adapters[0])
    turns = [files[1], files[0]] * (rounds + 1)
    rows.append(
        paired("swap", "unload and load of a LoRA",
               finished(lambda: swap_concept(pipe, "rex", turns.pop())), finished(reload),
               0.1, rounds)
    )  # fmt: skip
    return rows


@torch.no_grad()
def draw(pipe: Any) -> None:
    """One picture's latents: 512 px, 20 steps, guidance."""
    pipe("a photo of a dog", num_inference_steps=20, output_type="latent",
         generator=torch.Generator().manual_seed(0))  # fmt: skip


def generation(rounds: int) -> list[Row]:
    """The base with a concept attached, and fused, against the base and against a LoRA on it."""
    alone, attached, fused, other = (on_gpu() for _ in range(4))
    file = concept(attached)
    for pipe in (attached, fused):
        load_concept(pipe, file, name="rex")
    fuse_concepts(fused)
    other.load_lora_weights(lora(other), adapter_name="lora")

    def timed(pipe: Any) -> Callable[[], None]:
        return finished(lambda: draw(pipe))

    return [
        paired(f"generation, {kind}", against, timed(pipe), timed(theirs), goal, rounds)
        for kind, pipe, against, theirs, goal in (
            ("attached", attached, "the base alone", alone, 1.03),
            ("fused", fused, "the base alone", alone, 1.0),
            ("attached", attached, "a LoRA of rank 4, attached", other, 1.0),
        )
    ]


PARTS = {
    "sd15": lambda quick: training(SD15, 12 if quick else 40),
    "load": lambda quick: loading(1 if quick else 5),
    "draw": lambda quick: generation(1 if quick else 5),
    "whole": lambda quick: whole(20 if quick else 400),
    "sdxl": lambda quick: training(SDXL, 12 if quick else 40),
    "flux": lambda quick: training(FLUX, 12 if quick else 25),
}


def run(quick: bool) -> tuple[list[Row], dict]:
    """All rows, or those of the selected parts."""
    rows: list[Row] = []
    for part in os.environ.get("SVFIT_GPU_PARTS", ",".join(PARTS)).split(","):
        rows += PARTS[part](quick)
    card = torch.cuda.get_device_name()
    return [Row(**row.as_dict() | {"claim": f"{card}: {row.claim}"}) for row in rows], {}


if __name__ == "__main__":
    del sys.argv[0]
    inside(sys.argv[0])
