"""The runs of each stage of the likeness comparison, and the processes that run them."""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed

from tqdm import tqdm

from benchmarks.likeness.methods import BY_NAME
from benchmarks.likeness.statistics import GOALS
from benchmarks.likeness.store import RESULTS, base_name, known, runs_file, work_folder
from svfit_diffusion.settings import TrainConfig

WORKERS = {  # of processes that train side by side: freed memory is kept, as pages are dear
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
}
LOOKS, LOOK = (100, 200, 400), 200  # steps: of compared methods, of the others
ALIGNED, TIE = 0.95, 0.01
WORD_SUBJECTS = 2
SWEEP_SUBJECTS, SUBJECTS, FEWER = 2, {"dev": 6, "sealed": 14}, {"dev": 6, "sealed": 6}
SHIPPED = ("default", "tiniest")  # as they ship, whatever the sweep finds best
TWICE = ("default", "lora-4-help")  # trainings: two seeds of the comparison that decides


def run_job(job: dict) -> dict:
    """One run, in a process of its own."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ[name] = "1"
    logging.disable(logging.WARNING)
    from benchmarks.likeness import run as likeness_run
    from benchmarks.likeness.subjects import SPLITS

    work = work_folder()
    item = next(item for item in SPLITS[job["split"]] if item.slug == job["subject"])
    if job["stage"] == "word":
        from benchmarks.likeness import word as likeness_word

        return likeness_word.one(job["method"], item, job["rate"], work)
    if job["stage"] == "guidance":
        from benchmarks.likeness import guidance as likeness_guidance

        return likeness_guidance.one(item, work)
    if job["stage"] == "scale":
        return likeness_run.scale(item, work)
    if job["stage"] == "length":
        from benchmarks.likeness import length as likeness_length

        return likeness_length.one(job["way"], item, job["rate"], work)
    method = BY_NAME[job["method"]]
    if job["stage"] == "sweep":
        looks = LOOKS if is_compared(job["method"]) else (LOOK,)
        return likeness_run.sweep(method, item, job["rate"], looks, work)
    return likeness_run.measure(method, item, job["seed"], job["rate"], job["steps"], work)


def is_compared(name: str) -> bool:
    """Whether a method is in a comparison that was written down before; the others explore, with
    one number of steps and on fewer sealed subjects.
    """
    return name in {"base", "whole", *(name for goal in GOALS for name in (goal.one, goal.other))}


def run_all(jobs: list[dict], workers: int) -> None:
    """Run the jobs, of one stage and split, that have no result yet."""
    stage, split = jobs[0]["stage"], jobs[0]["split"]
    done = known(stage, split)
    todo = [job for job in jobs if json.dumps(job) not in done]
    for name, value in WORKERS.items():
        os.environ.setdefault(name, value)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool,
        runs_file(stage, split).open("a", encoding="utf-8") as file,
    ):
        futures = {pool.submit(run_job, job): job for job in todo}
        bar = tqdm(as_completed(futures), total=len(jobs), initial=len(jobs) - len(todo))
        for future in bar:
            entry = {"base": base_name(), "job": futures[future], "result": future.result()}
            file.write(json.dumps(entry) + "\n")
            file.flush()


def sweep_jobs(names: list[str]) -> list[dict]:
    """All learning rates of all methods on the sweep's subjects."""
    from benchmarks.likeness.subjects import subjects

    return [
        {"stage": "sweep", "split": "dev", "method": name, "subject": item.slug, "rate": rate}
        for item in subjects("dev", SWEEP_SUBJECTS)
        for name in names
        for rate in BY_NAME[name].rates
        if name != "base"
    ]


def best(names: list[str]) -> dict[str, dict]:
    """Method -> its best rate and steps in the sweep, and its measures there, averaged over
    subjects; edge: whether the rate is the lowest or the highest that was tried. Presets have the
    rate and steps that ship.
    """
    found: dict[str, dict[tuple[float, int], list[dict]]] = {}
    done = known("sweep", "dev")
    for job in sweep_jobs(names):
        if json.dumps(job) not in done:
            raise SystemExit(f"The sweep of {job['method']} is not finished; run `sweep` first.")
        for steps, seen in done[json.dumps(job)].items():
            cell = found.setdefault(job["method"], {}).setdefault((job["rate"], int(steps)), [])
            cell.append(seen)
    chosen = {}
    for name, cells in found.items():
        means = {
            cell: {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}
            for cell, runs in cells.items()
        }
        rate, steps = choose(means)
        rates = sorted({cell[0] for cell in cells})
        if name in SHIPPED:
            rate, steps = shipped()
        edge = len(rates) > 1 and rate in (rates[0], rates[-1])
        chosen[name] = {"rate": rate, "steps": steps, "edge": edge}
        chosen[name] |= means[rate, steps]
    return chosen


def shipped() -> tuple[float, int]:
    """The rate and the number of steps of `svfit train` on Toybox, with all presets."""
    return TrainConfig().rates[0], TrainConfig().max_train_steps


def choose(means: dict[tuple[float, int], dict[str, float]]) -> tuple[float, int]:
    """The best rate and steps: those with the highest fidelity among those that follow the prompts
    almost completely (otherwise one that shows the subject whatever the prompt is would win).

    Those less than TIE below the highest count as equal, as a few pictures cannot distinguish them;
    among these, the one with the lowest loss on unseen compositions, which has little variance.
    """
    most = max(min(seen["aligned"], ALIGNED) for seen in means.values())
    kept = {cell: seen for cell, seen in means.items() if seen["aligned"] >= most}
    top = max(seen["fidelity"] for seen in kept.values())
    equal = [cell for cell, seen in kept.items() if seen["fidelity"] > top - TIE]
    return min(equal, key=lambda cell: kept[cell]["loss"])


def measure_jobs(names: list[str], split: str) -> list[dict]:
    """All methods at their best rates and steps on all subjects of a split."""
    from benchmarks.likeness.subjects import subjects

    chosen = best(names) | {"base": {"rate": 0.0, "steps": 0}}
    return [
        {
            "stage": "measure",
            "split": split,
            "method": name,
            "subject": item.slug,
            "seed": seed,
            "rate": chosen[name]["rate"],
            "steps": chosen[name]["steps"],
        }
        for seed in (0, 1)
        for name in names
        for item in subjects(split, (SUBJECTS if is_compared(name) else FEWER)[split])
        if (seed == 0 or name in TWICE) and not (split == "sealed" and BY_NAME[name].trial)
    ]


def scale_jobs(split: str) -> list[dict]:
    """What 0 and 1 are for each subject."""
    from benchmarks.likeness.subjects import subjects

    return [
        {"stage": "scale", "split": split, "subject": item.slug}
        for item in subjects(split, SUBJECTS[split])
    ]


def length_jobs() -> list[dict]:
    """The default at its best rate on the dev subjects, with each rule for the end."""
    from benchmarks.likeness.length import METHOD, WAYS
    from benchmarks.likeness.subjects import subjects

    rate, items = best([METHOD])[METHOD]["rate"], subjects("dev", SUBJECTS["dev"])
    return [
        {"stage": "length", "split": "dev", "way": way, "subject": item.slug, "rate": rate}
        for way in WAYS
        for item in items
    ]


def guidance_jobs() -> list[dict]:
    """What the unconditional part of a prediction is, on the dev subjects."""
    from benchmarks.likeness.subjects import subjects

    return [
        {"stage": "guidance", "split": "dev", "subject": item.slug}
        for item in subjects("dev", SUBJECTS["dev"])
    ]


def word_jobs() -> list[dict]:
    """A word's embedding, its output at several rates, and both, on a few dev subjects."""
    from benchmarks.likeness.subjects import subjects
    from benchmarks.likeness.word import ARMS

    return [
        {"stage": "word", "split": "dev", "method": name, "subject": item.slug, "rate": rate}
        for name, rate in ARMS
        for item in subjects("dev", WORD_SUBJECTS)
    ]
