"""`svfit evaluate`: measure concepts, or reproduce the DreamBooth benchmark."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .paths import add_overwrite, expanded
from .terminal import quiet_libraries, shown


def add_command(commands: Any) -> None:
    """Add `evaluate` to the commands."""
    command = commands.add_parser(
        "evaluate",
        help="measure the likeness of concepts",
        description="Generate prompts with concepts and measure fidelity, copying, alignment, "
        "drift and diversity; with --preset dreambooth, train and measure its 30 subjects.",
    )
    command.add_argument(
        "--base", default="toybox", type=expanded, help="base of the concepts (default: toybox)"
    )
    command.add_argument("--concept", action="append", default=[], metavar="FILE", type=expanded,
                         help="a concept file; may be given several times")  # fmt: skip
    command.add_argument(
        "--reference_dir", type=expanded, help="pictures of the subject to compare with"
    )
    command.add_argument(
        "--instance_data_dir",
        type=expanded,
        help="the photos it was learned from (default: reference_dir)",
    )
    command.add_argument(
        "--mask_dir", type=expanded, help="masks named like the references, white on the subject"
    )
    command.add_argument(
        "--prompts", type=expanded, metavar="FILE", help="a prompt a line, {} for the subject"
    )
    command.add_argument("--num", type=int, default=4, help="pictures a prompt (default: 4)")
    command.add_argument("--seed", type=int, default=0, help="of the first picture (default: 0)")
    command.add_argument("--steps", type=int, help="denoising steps (default: the base's)")
    command.add_argument("--guidance", type=float, help="guidance scale (default: the base's)")
    command.add_argument(
        "--features",
        default="dino,clip",
        help="extractors, the first one decides: dino, dinov2, clip (each "
        "optionally =FOLDER), efficientnet-lite0, efficientnet-lite0-grid (default: dino,clip)",
    )
    command.add_argument("--output_dir", default="svfit-evaluation", type=expanded,
                         help="pictures and scores")  # fmt: skip
    add_overwrite(command, "pictures of other settings, and scores")
    _add_preset(command)
    command.set_defaults(run=_run)


def _add_preset(command: argparse.ArgumentParser) -> None:
    """The flags of the published benchmark."""
    command.add_argument("--preset", choices=("dreambooth",), help="the published benchmark")
    command.add_argument(
        "--dataset_dir", type=expanded, help="of the preset: its folder of 30 subjects' folders"
    )
    command.add_argument("--max_train_steps", type=int, help="of the preset (default: the rule's)")
    command.add_argument(
        "--mixed_precision",
        choices=("no", "fp16", "bf16"),
        help="of the preset's trainings (default: the launcher's, or no)",
    )


def _run(arguments: argparse.Namespace) -> int:
    """Evaluate and print the table."""
    quiet_libraries()
    from ..evaluation import PROMPTS, EvaluationPlan, evaluate, read_references
    from ..generation import pick_device

    plan = EvaluationPlan(
        prompts=_lines(arguments.prompts) if arguments.prompts else PROMPTS,
        num=arguments.num,
        seed=arguments.seed,
        steps=arguments.steps,
        guidance=arguments.guidance,
        features=tuple(arguments.features.split(",")),
    )
    if arguments.preset:
        return _preset(arguments, plan)
    if not arguments.reference_dir:
        raise ValueError("no references are given; pass --reference_dir, pictures of the subject.")
    references = read_references(arguments.reference_dir, arguments.mask_dir)
    folder = arguments.instance_data_dir or arguments.reference_dir
    training = references if folder == arguments.reference_dir else read_references(folder)
    rows = evaluate(arguments.base, arguments.concept, references, training, arguments.output_dir,
                    plan, pick_device(), overwrite=arguments.overwrite)  # fmt: skip
    if rows:
        print(table(rows))
    return 0


def _preset(arguments: argparse.Namespace, plan) -> int:
    from ..evaluation import run_dreambooth

    if not arguments.dataset_dir:
        raise ValueError("the preset needs --dataset_dir, the folder of DreamBooth's subjects.")
    summary = run_dreambooth(
        arguments.base,
        Path(arguments.dataset_dir),
        Path(arguments.output_dir),
        plan,
        max_train_steps=arguments.max_train_steps,
        mixed_precision=arguments.mixed_precision,
    )
    for name, value in summary.items():
        print(f"{name:<12} {value:.3f}")
    return 0


def _lines(path: str) -> tuple[str, ...]:
    """The prompts of a text file, one a line."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; expected a prompt a line.") from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def table(rows) -> str:
    """Rows of evaluate.py as text."""
    kinds = list(rows[0].likeness)
    heads = ["concept", "values", "bytes", *(f"{kind} fidelity (cosine, copy)" for kind in kinds)]
    heads += ["alignment", "drift", "diversity"]
    lines = [heads]
    for row in rows:
        measured = (row.likeness[kind] for kind in kinds)
        lines.append([
            shown(row.name), f"{row.values:,}", f"{row.bytes:,}",
            *(f"{m.fidelity:.3f} ({m.raw:.3f}, {m.copy:.3f})" for m in measured),
            "-" if row.alignment is None else f"{row.alignment:.3f}",
            f"{row.drift:.3f}", f"{row.diversity:.3f}",
        ])  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
