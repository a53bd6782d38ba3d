"""SVFit in PEFT's comparison of methods on FLUX.2 klein: their code, unchanged, on our experiments.

    python -m benchmarks.image_gen --peft CHECKOUT
    python -m benchmarks.image_gen --peft CHECKOUT --experiment svfit/flux2-klein-rank560
    python -m benchmarks.image_gen --peft CHECKOUT --experiment svfit-word/flux2-klein-rank16

CHECKOUT: a clone of https://github.com/huggingface/peft, whose `method_comparison/image-gen` is
run. Its code needs Python 3.12, a GPU, and `pip install -r` of its requirements.txt. Results lie
where it puts them: in its `results/` on the branch main, else in its `temporary_results/`. The
experiment with the learned word is no PEFT method, and its result stays in the folder `--output`.
What to expect is in docs/compare.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .suite import EXPERIMENTS, check_machine, check_python, enter, run_experiment

DEFAULT, WORD = "svfit/flux2-klein-default", "svfit-word"


def main() -> None:
    """Parse the arguments, and run one experiment."""
    names = sorted(str(p.relative_to(EXPERIMENTS)) for p in EXPERIMENTS.glob("*/*"))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.image_gen",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peft", type=Path, required=True, help="a clone of PEFT's repository")
    parser.add_argument("--experiment", default=DEFAULT, choices=names)
    parser.add_argument(
        "--output", type=Path, default=Path("image-gen"), help="folder of the word's experiment"
    )
    arguments = parser.parse_args()
    try:
        check_python()
        suite = enter(arguments.peft)
        check_machine(suite)
        if arguments.experiment.startswith(WORD):
            from .word import run_word

            result = run_word(EXPERIMENTS / arguments.experiment, arguments.output)
        else:
            result = run_experiment(suite, arguments.experiment)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"Result: {result}")


if __name__ == "__main__":
    main()
