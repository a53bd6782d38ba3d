"""Likeness against bytes: SVFit compared with LoRA and other small methods, on Toybox.

    python -m benchmarks.likeness ladder                  validates the measure of fidelity
    python -m benchmarks.likeness sweep                   rates and steps, on dev subjects
    python -m benchmarks.likeness length                  fixed numbers of steps against `auto`
    python -m benchmarks.likeness guidance                what guides a picture of a concept
    python -m benchmarks.likeness word                    a word's embedding against its output
    python -m benchmarks.likeness measure --split dev     all methods at their best, on dev subjects
    python -m benchmarks.likeness measure --split sealed  the same, once, for the final table
    python -m benchmarks.likeness report --split sealed   table, plot and sheets of what was
                                                          measured so far
    python -m benchmarks.likeness related                 the tables of docs/related.md
    python -m benchmarks.likeness eyes --split sealed     fifty pairs to judge blind, and how often
                                                          the measure agrees

Each run adds a line to `benchmarks/likeness/results/<stage>-<split>.jsonl`, so a stage that was
stopped continues where it was, also on another machine; pictures are kept in a work folder.
Needs the recipe's objects (`python recipes/toybox/fetch.py`) and the `bench` extra.
"""

from __future__ import annotations

import argparse
import operator
import os
from collections import Counter

from benchmarks.likeness.jobs import (
    best,
    guidance_jobs,
    length_jobs,
    measure_jobs,
    run_all,
    scale_jobs,
    sweep_jobs,
    word_jobs,
)
from benchmarks.likeness.store import RESULTS, results_of, work_folder


def main() -> None:
    """Parse and run one stage."""
    from benchmarks.likeness.methods import METHODS

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    trials = ("length", "guidance", "word")
    stages = ("ladder", "sweep", *trials, "measure", "report", "related", "eyes")
    parser.add_argument("stage", choices=stages)
    parser.add_argument("--split", choices=("dev", "sealed"), default="dev")
    parser.add_argument("--methods", nargs="*", default=[method.name for method in METHODS])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.stage == "ladder":
        from benchmarks.likeness import ladder as likeness_ladder

        likeness_ladder.write(RESULTS)
    elif args.stage == "sweep":
        run_all(sweep_jobs(args.methods), args.workers)
        for name, choice in best(args.methods).items():
            shown = (f"{key} {value:.4g}" for key, value in choice.items() if key != "edge")
            print(name.ljust(20), *shown, "(at an edge: try further)" * choice["edge"])
    elif args.stage in trials:
        from benchmarks.likeness import guidance as likeness_guidance
        from benchmarks.likeness import length as likeness_length
        from benchmarks.likeness import word as likeness_word

        modules = {
            "length": (length_jobs, likeness_length),
            "guidance": (guidance_jobs, likeness_guidance),
            "word": (word_jobs, likeness_word),
        }
        make_jobs, report = modules[args.stage]
        jobs = make_jobs()
        run_all(jobs, args.workers)
        text = report.markdown(results_of(jobs))
        (RESULTS / f"{args.stage}.md").write_text(text, "utf-8")
        print(text)
    elif args.stage == "measure":
        run_all(scale_jobs(args.split), args.workers)
        run_all(measure_jobs(args.methods, args.split), args.workers)
    elif args.stage == "related":
        from benchmarks.likeness import related

        print(*related.tables().values(), sep="\n")
    elif args.stage == "eyes":
        from benchmarks.likeness import eyes as likeness_eyes

        results = results_of(measure_jobs(args.methods, args.split))
        likeness_eyes.pairs_or_agreement(results, args.split, RESULTS, work_folder())
    else:
        from benchmarks.likeness import report as likeness_report

        row = operator.itemgetter("method", "subject")
        jobs = measure_jobs(args.methods, args.split)
        found = results_of(jobs)
        wanted, had = Counter(map(row, jobs)), Counter(row(entry["job"]) for entry in found)
        results = [e for e in found if had[row(e["job"])] == wanted[row(e["job"])]]
        scales = {e["job"]["subject"]: e["result"] for e in results_of(scale_jobs(args.split))}
        if not results or not scales:
            raise SystemExit(f"Nothing was measured on {args.split} subjects; run `measure` first.")
        likeness_report.write(results, scales, args.split, RESULTS, work_folder())


if __name__ == "__main__":
    main()
