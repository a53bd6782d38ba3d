"""benchmarks/likeness: how rates are chosen, what an interval is, and the docs' own figures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.likeness import related
from benchmarks.likeness.jobs import ALIGNED, LOOKS, SHIPPED, TIE, choose, shipped
from benchmarks.likeness.methods import BY_NAME, METHODS, round_values, sd15_bytes, word_bytes
from benchmarks.likeness.report import short_table
from benchmarks.likeness.statistics import GOALS, Measures, verdict
from benchmarks.likeness.store import RESULTS
from benchmarks.likeness.trainings import Run
from svfit_diffusion.concept.packing import BLOCK, round_vector
from svfit_diffusion.training.averaging import Average

ROOT = Path(__file__).parents[2]


def seen(fidelity, aligned, loss):
    return {"fidelity": fidelity, "aligned": aligned, "loss": loss}


def test_a_rate_that_draws_the_subject_whatever_the_prompt_does_not_win():
    rates = {(0.1, 200): seen(0.2, 0.96, 0.3), (0.2, 200): seen(0.4, 0.9, 0.2)}
    assert choose(rates) == (0.1, 200)
    assert choose(rates | {(0.3, 200): seen(0.1, 0.97, 0.1)}) == (0.1, 200), "enough is enough"
    assert choose({(0.1, 100): seen(0.2, 0.6, 0.3), (0.2, 100): seen(0.4, 0.5, 0.2)}) == (0.1, 100)


def test_of_rates_that_look_alike_the_loss_decides():
    cells = (seen(0.215, 1, 0.3), seen(0.22, 1, 0.4), seen(0.2, 1, 0.1))
    assert choose({(0.1, steps): cell for steps, cell in enumerate(cells)}) == (0.1, 0)


def scales(subjects, noise=0.0, rng=None):
    """Scales whose 0 is a closeness of 0.2 and whose 1 is 0.7; noise: of the base's pictures."""
    rng = rng or np.random.default_rng(0)
    return {
        name: {
            "base": (0.2 + noise * rng.normal(size=(10, 4))).tolist(),
            "real": np.full((10, 4), 0.7).tolist(),
            "decoded": np.full((10, 4), 0.6).tolist(),
        }
        for name in subjects
    }


def results(of):
    """Runs of one training: method -> subject -> fidelity, on the scale above."""
    return [
        {
            "job": {"method": method, "subject": subject, "seed": 0},
            "result": {"near": np.full((10, 4), 0.2 + 0.5 * value).tolist()},
        }
        for method, values in of.items()
        for subject, value in values.items()
    ]


def test_fidelity_is_0_for_the_base_and_1_for_a_true_picture():
    names = ("a", "b")
    found = Measures(results({"m": {"a": 0.0, "b": 1.0}}), scales(names))
    assert found.fidelity("m") == pytest.approx({"a": 0, "b": 1})
    assert found.mean("decoded") == pytest.approx((0.8, 0.8, 0.8)), "what the VAE alone leaves"
    assert found.mean("m") == pytest.approx((0.5, 0, 1)), "subjects count as wholes"


def test_an_interval_holds_the_mean_as_often_as_it_says():
    """Of means over normal subjects: half the width is 1.96 deviations of the mean."""
    names = [str(i) for i in range(300)]
    values = np.random.default_rng(3).normal(0.5, 0.2, len(names))
    of = {"m": dict(zip(names, values, strict=True))}
    mean, low, high = Measures(results(of), scales(names)).mean("m")
    width = 1.96 * values.std() / np.sqrt(len(names))
    assert mean == pytest.approx(values.mean())
    assert (low - mean, high - mean) == pytest.approx((-width, width), rel=0.08)


def test_an_uncertain_scale_widens_the_interval_of_a_mean_and_moves_no_difference_of_equals():
    names = [str(i) for i in range(12)]
    alike = {name: 0.5 for name in names}
    of = results({"m": alike, "n": alike})
    sure, unsure = (Measures(of, scales(names, noise)) for noise in (0.0, 0.2))
    assert sure.mean("m") == pytest.approx((0.5, 0.5, 0.5))
    low, high = unsure.mean("m")[1:]
    assert high - low > 0.01
    assert unsure.difference("m", "n") == pytest.approx((0, 0, 0))


@pytest.mark.parametrize(
    "difference, says",
    [
        ((0.02, 0.01, 0.03), "better"),
        ((0.0, -0.01, 0.01), "no worse"),
        ((0.0, -0.03, 0.03), "not distinguished"),
        ((-0.05, -0.08, -0.03), "worse"),
        ((-0.015, -0.019, -0.01), "worse, by less than the margin"),
        ((-0.03, -0.05, -0.01), "worse"),
    ],
)
def test_a_range_that_crosses_its_margin_says_nothing(difference, says):
    assert verdict(difference, -0.02) == says


def test_goals_compare_like_with_like_and_one_of_them_decides():
    help = {method.name: method.help for method in METHODS}
    assert [goal.primary for goal in GOALS].count(True) == 1
    for goal in GOALS:
        assert goal.unlike or help[goal.one] == help[goal.other], goal


def test_a_word_in_four_bits_is_counted_and_rounded_as_the_product_does():
    method = BY_NAME["ti-4"]
    assert word_bytes(method, 768) == 4 * (768 // 2 + 2 * 768 // 64)
    assert word_bytes(BY_NAME["lora-4-help"], 768) == 2 * 768
    vector = torch.randn(150, generator=torch.Generator().manual_seed(0))
    row = torch.nn.Parameter(vector.clone())
    round_values(row, BLOCK)
    assert torch.equal(row.detach(), torch.from_numpy(round_vector(vector.numpy())))


def test_every_method_has_as_many_rates_and_none_of_ours_more():
    ours = max(len(m.rates) for m in METHODS if m.settings is not None)
    lora = max(len(m.rates) for m in METHODS if m.adapter == "LoraConfig")
    assert ours <= lora
    swept = [m for m in METHODS if m.name not in ("base", *SHIPPED) and not m.trial]
    assert all(3 <= len(m.rates) <= 5 for m in swept)
    assert len({m.rates for m in METHODS if m.trial}) == 1, "trials and the plain way have one rate"


@pytest.mark.parametrize(
    "name, values",
    [
        ("lora-4-help", 4 * (320 + 768)),
        ("full", 320 * 768),
        ("ia3", 320),  # one factor for each output of a key
        ("hra", 4 * 768),
        ("oft", 768 // 8 * (8 * 7 // 2)),
        ("vera", 320 + 16),
        ("core", 9),
        ("svfit-share", 16),
    ],
)
def test_bytes_for_stable_diffusion_are_counted_where_a_method_is_applied(name, values):
    """One projection from 768 to 320 in the UNet, none in the text encoder; and the word."""
    method = next(m for m in METHODS if m.name == name)
    bits = values * method.bits // 8 if method.bits == 16 else -(-values // 2) + 2
    found = sd15_bytes(method, {"denoiser": [(320, 768)], "text": []}, "")
    assert found == bits + 2 * 768


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "lora-4-help"])
def test_a_look_on_the_way_is_at_what_a_training_of_so_many_steps_learns(name, tmp_path):
    """A sweep's 100 steps are those of a training that ends there."""
    from common import work_dir

    from benchmarks.likeness.subjects import DEV  # with parts of the bench extra
    from benchmarks.likeness.ways import subject_run

    if not (work_dir() / "objects").is_dir():
        pytest.skip("the recipe's objects are not here: python recipes/toybox/fetch.py")

    def losses(*looks):
        run = subject_run(BY_NAME[name], DEV[0], 0, 5e-3, tmp_path / str(len(looks)))
        return {look: (run.steps, run.loss()) for look in run.trained(*looks)}

    both, alone = losses(2, 4), losses(2)
    assert list(both) == [2, 4] and both[2][0] == 2 and both[4][0] == 4
    assert both[2] == alone[2] != both[4]


def test_the_table_of_the_docs_is_the_measured_one():
    rows = json.loads((RESULTS / "sealed.json").read_text("utf-8"))["rows"]
    assert short_table(rows) in (ROOT / "docs" / "likeness.md").read_text("utf-8")


def test_the_tables_of_related_work_are_the_measured_ones():
    text = (ROOT / "docs" / "related.md").read_text("utf-8")
    assert not {name for name, table in related.tables().items() if table not in text}


def test_every_method_that_was_tried_is_in_a_table_of_related_work():
    measured = json.loads((RESULTS / "sealed.json").read_text("utf-8"))["rows"]
    shown = {*related.EDITS, *related.CHOICES, *related.TRIALS}
    without_help = {row["method"] for row in measured if row["help"] == "none"}
    assert not {row["method"] for row in measured} - shown - without_help - {"tiniest"}


def test_presets_are_measured_as_they_ship_and_the_rate_is_the_best_of_the_sweep():
    """On the subjects of the sweep, at the steps that ship, or less than a tie below the best."""
    rate, steps = shipped()
    assert all(rate in BY_NAME[name].rates for name in SHIPPED) and steps in LOOKS
    runs = [json.loads(line) for line in (RESULTS / "sweep-dev.jsonl").read_text().splitlines()]
    cells = {}
    for entry in runs:
        if entry["job"]["method"] == SHIPPED[0]:
            cells.setdefault(entry["job"]["rate"], []).append(entry["result"][str(steps)])
    means = {
        tried: {key: np.mean([seen[key] for seen in found]) for key in ("fidelity", "aligned")}
        for tried, found in cells.items()
    }
    assert {*means} == {*BY_NAME[SHIPPED[0]].rates}
    best = max(mean["fidelity"] for mean in means.values() if mean["aligned"] >= ALIGNED)
    assert means[rate]["fidelity"] > best - TIE and means[rate]["aligned"] >= ALIGNED


def test_a_compared_methods_average_is_judged_and_its_training_goes_on_without():
    """As those of the product are: what a file holds is the average, rounded."""
    run = object.__new__(Run)
    value = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    run.method = BY_NAME["lora-4-averaged"]
    run.adapter, run.word = [value], []
    run.average = Average({"0": value}, 0.99)
    steps = [value.detach().clone()]
    for _ in range(3):
        with torch.no_grad():
            value.add_(1.0)
        run.average.step()
        steps.append(value.detach().clone())
    with run.as_written():
        judged = value.detach().clone()
    assert torch.equal(value.detach(), steps[-1])
    assert (steps[1] < judged).all() and (judged < steps[-1]).all()
