"""Where a word is learned: as an embedding, in the text encoder's output, or both.

Toybox's CLIP is taken here for a text encoder that is not trained through, as the language models
of newer bases are: only the UNet has deltas. All have captions with the backgrounds.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from objects import ToyObject
from torch import Tensor, nn

from benchmarks.likeness.methods import BY_NAME, round_values
from benchmarks.likeness.run import SWEEP_SEEDS, WORDS
from benchmarks.likeness.subjects import Judge
from benchmarks.likeness.trainings import Drawer, Run
from svfit_diffusion.families import FIRST, StableDiffusion, WordOutput, clip_ids
from svfit_diffusion.pipeline.word import with_vector
from svfit_diffusion.training.fixed_noise import each_photo
from svfit_diffusion.training.objective import Denoiser, Objective
from svfit_diffusion.training.runtime import restore, snapshot

DELTA_RATE, STEPS = 1.5e-2, 100
ARMS = (("embedding", 0.0), ("output", 0.06), ("both", 0.24), ("output", 0.24), ("output", 0.015))
BLOCKS = (16, 32, 64, 192)  # values with a scale of their own, in four bits
METHOD = replace(BY_NAME["svfit-share"], text=False)
SEEN = ("fidelity", "aligned", "copy")


class FrozenText(StableDiffusion):
    """Toybox's family with a text encoder that is not trained through."""

    encoders = ()
    frozen_text_encoders = (FIRST,)
    word_outputs = (WordOutput(FIRST, "encoder_hidden_states"),)

    def encode_frozen(
        self, pipe: Any, prompts: list[str], device: torch.device
    ) -> dict[str, Tensor]:
        """CLIP's last hidden states [n, length, width]."""
        ids = clip_ids(pipe.tokenizer, prompts).to(device)
        return {"encoder_hidden_states": pipe.text_encoder(ids).last_hidden_state}

    def encode_text(
        self, pipe: Any, ids: tuple[Tensor, ...], read: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Those states."""
        return dict(read or {})


class VectorToo:
    """A vector [width] in the output of an encoder that has learned rows: a forward hook."""

    def __init__(self, token: int, width: int) -> None:
        self.token, self.vector = token, nn.Parameter(torch.zeros(width))

    def __call__(self, encoder: nn.Module, args: tuple, output: Any) -> Any:
        """The output, with the vector at the learned token."""
        states = output.last_hidden_state
        output.last_hidden_state = with_vector(states, args[0] == self.token, self.vector)
        return output


def prepared(where: str, item: ToyObject, rate: float, work: Path) -> tuple[Run, list]:
    """A run, and the vectors for its text encoder's output. rate: of these, times their size."""
    family = FrozenText() if where == "output" else None
    run = Run(METHOD, item, 0, DELTA_RATE, work, family)
    if where == "embedding":
        return run, []
    if where == "output":
        vectors, size = run.rows, run.adapted.state_scales["text_encoder"]
        run.optimizer.param_groups[-1]["lr"] = rate * size
        return run, vectors
    (token,) = run.adapted.ids["text_encoder"]
    with torch.no_grad():
        said = run.pipe.text_encoder(clip_ids(run.pipe.tokenizer, [f"a {item.kind}"]))
    states = said.last_hidden_state
    hook = VectorToo(token, states.shape[-1])
    run.pipe.text_encoder.register_forward_hook(hook)
    run.parameters.append(hook.vector)
    size = 1.4826 * states.abs().median().item()
    run.optimizer.add_param_group({"params": [hook.vector], "lr": rate * size})
    return run, [hook.vector]


def one(where: str, item: ToyObject, rate: float, work: Path) -> dict[str, Any]:
    """Measures after the training, with the vector in half precision and in four bits."""
    run, vectors = prepared(where, item, rate, work)
    list(run.trained(STEPS))
    for parameter, block in run.rounded:
        round_values(parameter, block)
    with torch.no_grad():
        for learned in {*run.rows, *vectors}:
            learned.copy_(learned.half())
    objective = Objective(run.config, run.accelerator, run.adapted, run.subject)
    model = Denoiser(run.adapted)
    photos = each_photo(objective, run.subject.examples)
    found = {"loss": photos.error(model)} | _seen(run)
    kept = snapshot({str(i): v for i, v in enumerate(vectors)})
    for block in BLOCKS if vectors else ():
        for vector in vectors:
            round_values(vector, block)
        found[f"loss {block}"] = photos.error(model)
        restore({str(i): v for i, v in enumerate(vectors)}, kept)
    return found


def _seen(run: Run) -> dict[str, list]:
    pictures = run.generate(WORDS, SWEEP_SEEDS)
    judge = _judge_of(run.item, run.work)
    scores = {
        "fidelity": judge.fidelity(pictures),
        "aligned": judge.aligned(pictures),
        "copy": judge.copies(judge.features(pictures)).reshape(-1, SWEEP_SEEDS),
    }
    return {key: np.round(scores[key], 4).tolist() for key in SEEN}


@functools.cache
def _judge_of(item: ToyObject, work: Path) -> Judge:
    """A judge by the base's pictures of the class word, as few as are compared with them."""
    base = Drawer(BY_NAME["base"], item, 0, 0.0, work)
    return Judge(item, base.generate(WORDS, SWEEP_SEEDS), SWEEP_SEEDS)


def markdown(results: list[dict]) -> str:
    """A row for each place and rate: means, and the difference from the embedding's fidelity."""
    rows: dict[tuple[str, float], dict[str, dict]] = {}
    for entry in results:
        job = entry["job"]
        rows.setdefault((job["method"], job["rate"]), {})[job["subject"]] = entry["result"]
    against = rows[("embedding", 0.0)]
    lines = [
        "# Where a word is learned, on Toybox, dev subjects",
        "",
        f"`python -m benchmarks.likeness word`: {', '.join(against)}; one training seed, "
        f"{len(WORDS)} prompts x {SWEEP_SEEDS} seeds; only the UNet has deltas. The rate is that "
        "of the vector, times the size of the text encoder's states. The difference is that of "
        "the fidelity from the embedding's, for each subject.",
        "",
        "Loss is that on the photos at fixed noise: of the vector in half precision, and in four "
        "bits with a scale for so many values.",
        "",
        "| learned | rate | fidelity | aligned | copy | loss | "
        + " | ".join(f"4 bits, {block}" for block in BLOCKS)
        + " | difference |",
        "|---|---|---|---|---|---|" + "---|" * (len(BLOCKS) + 1),
    ]
    for (where, rate), runs in rows.items():
        shared = [slug for slug in against if slug in runs]
        cells = {key: _cells(runs, key, shared) for key in SEEN}
        means = " | ".join(f"{cells[key].mean():.3f}" for key in SEEN)
        losses = (_loss(runs, shared, block) for block in (None, *BLOCKS))
        each = (cells["fidelity"] - _cells(against, "fidelity", shared)).mean((1, 2, 3))
        shown = " ".join(f"{value:+.3f}" for value in each) if where != "embedding" else ""
        lines.append(f"| {where} | {rate or ''} | {means} | {' | '.join(losses)} | {shown} |")
    return "\n".join(lines) + "\n"


def _loss(runs: dict[str, dict], subjects: list[str], block: int | None) -> str:
    key = "loss" if block is None else f"loss {block}"
    held = [runs[slug][key] for slug in subjects if key in runs[slug]]
    return f"{np.mean(held):.4f}" if held else ""


def _cells(runs: dict[str, dict], key: str, subjects: list[str]) -> np.ndarray:
    """[subjects, trainings, prompts, seeds] of a measure."""
    return np.array([runs[slug][key] for slug in subjects])[:, None]
