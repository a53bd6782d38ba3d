"""benchmarks/likeness: how rates are chosen, what an interval is, and the README's own figures."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.likeness.__main__ import best, choose
from benchmarks.likeness.report import interval
from svfit_diffusion.settings import PRESETS, TrainConfig

ROOT = Path(__file__).parents[2]


def seen(fidelity, aligned, loss):
    return {"fidelity": fidelity, "aligned": aligned, "loss": loss}


def test_a_rate_that_draws_the_subject_whatever_the_prompt_does_not_win():
    rates = {0.1: seen(0.2, 0.96, 0.3), 0.2: seen(0.4, 0.9, 0.2)}
    assert choose(rates) == 0.1
    assert choose(rates | {0.3: seen(0.1, 0.97, 0.1)}) == 0.1, "enough is enough"
    assert choose({0.1: seen(0.2, 0.6, 0.3), 0.2: seen(0.4, 0.5, 0.2)}) == 0.1


def test_of_rates_that_look_alike_the_loss_decides():
    rates = {0.1: seen(0.215, 1, 0.3), 0.2: seen(0.22, 1, 0.4), 0.3: seen(0.2, 1, 0.1)}
    assert choose(rates) == 0.1


@pytest.mark.parametrize("method, preset", [("svfit-text", "tiny"), ("paper", "paper")])
def test_presets_have_the_best_rates_of_the_sweep(method, preset):
    """Ours are relative to the singular values, whose root mean square on Toybox is 2.4 and 2.7."""
    rate = TrainConfig(**PRESETS[preset]).learning_rate
    assert rate * 2.5 == pytest.approx(best([method])[method]["rate"])


def test_an_interval_holds_the_mean_as_often_as_it_says():
    """Of means of normal numbers: half the width is 1.96 deviations of the mean."""
    values = np.random.default_rng(3).normal(2, 1, (400, 1, 1, 1))
    mean, low, high = interval(values)
    assert mean == pytest.approx(values.mean())
    width = 1.96 * values.std() / 20
    assert (low - mean, high - mean) == pytest.approx((-width, width), rel=0.08)
    assert interval(np.full((8, 2, 10, 4), 0.25)) == (0.25, 0.25, 0.25)


def test_subjects_count_as_wholes():
    """Two different subjects whose cells agree: resampling single cells would be too narrow."""
    values = np.repeat([0.0, 1.0], 80).reshape(2, 2, 10, 4)
    assert interval(values) == (0.5, 0.0, 1.0)


OURS = "SVFit top 3, text values and outputs top 80, 4 bits + token"
ROWS = {  # the rows of docs/likeness.md: the method of each in the whole table
    "the base": "base model",
    "SVFit, as by default": f"{OURS} + captions",
    "rank 16 everywhere (`--text_encoder_rank 16`)": "SVFit top 3, 4 bits + token + captions",
    "the default without named backgrounds": OURS,
    "UniLoRA, with a learned word and named backgrounds": "UniLoRA, 4 bits + token + captions",
    "UniLoRA, with a learned word": "UniLoRA, 4 bits + token",
    "TinyLoRA, with a learned word": "TinyLoRA, 4 bits + token",
    "WaveFT, with a learned word": "WaveFT, 4 bits + token",
    "cores of 3 x 3 (LoRA-XS), with a learned word": "3 x 3 core (LoRA-XS), 4 bits + token",
    "Textual Inversion: the learned word alone, with named backgrounds": (
        "Textual Inversion + captions"
    ),
    "Textual Inversion": "Textual Inversion",
    "VeRA, with a learned word": "VeRA + token",
    "PSOFT rank 16": "PSOFT rank 16",
    "HRA rank 4": "HRA rank 4",
    "AdaLoRA, rank 6 to 4": "AdaLoRA rank 6 to 4",
    "all attention weights": "all attention weights",
    "preset `paper`": "SVFit, 99 % of the energy",
    "preset `paper`, with a learned word": "SVFit, 99 % of the energy + token",
    "LoRA rank 4 on the UNet, as diffusers' script trains it": "LoRA rank 4",
    "LoRA rank 8": "LoRA rank 8",
    "LoRA rank 4, with a learned word": "LoRA rank 4 + token",
    "LoRA rank 4, on the text encoder too, with a learned word": (
        "LoRA rank 4, text encoder too, + token"
    ),
    "LoRA rank 4, with named backgrounds": "LoRA rank 4 + captions",
    "LoRA rank 4, with a learned word and named backgrounds": "LoRA rank 4 + token + captions",
}


def test_the_rows_of_the_docs_are_those_of_the_whole_table():
    """Each method's own figures, and no other's."""

    def rows(path, width, fidelity):
        lines = (ROOT / path).read_text("utf-8").splitlines()
        cells = ([cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines)
        return [row for row in cells if len(row) == width and " to " in row[fidelity]]

    whole = rows("benchmarks/likeness/results/sealed.md", 11, fidelity=5)
    told = rows("docs/likeness.md", 6, fidelity=2)
    methods = {row[0]: row for row in whole}
    assert [row[0] for row in told] == list(ROWS) and len(methods) == len(whole)
    for name, size, fidelity, against, *others in told:
        seen = [re.sub("^0 ", "-0.000 ", fidelity), against, *others]
        if against == "0":
            seen[1] = "+0.000 (+0.000 to +0.000)"
        row = methods[ROWS[name]]
        assert row[5:9] == seen, name
        assert size == row[3] or (row[3] == "-" and not size[0].isdigit()), name
