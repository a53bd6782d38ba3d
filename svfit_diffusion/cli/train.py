"""`svfit train`: learn a subject from photos."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings import TrainConfig, add_arguments, flag_remarks, from_arguments
from .paths import add_overwrite, output_path
from .terminal import quiet_libraries, shown

if TYPE_CHECKING:
    from ..training import Trained

log = logging.getLogger(__name__)


def add_command(commands: Any) -> None:
    """Add `train` to the commands."""
    command = commands.add_parser(
        "train",
        help="learn a subject from photos",
        usage="svfit train --instance_data_dir PHOTOS --instance_prompt 'a photo of sks dog' "
        "[flags]",
        description="Learn a subject from a folder of photos; without arguments, the sample. Flags "
        "of diffusers' DreamBooth scripts that are not listed are taken too.",
    )
    command.add_argument(
        "--dry_run", action="store_true", help="stop after the summary of what would be done"
    )
    add_overwrite(command, "a concept that output_dir holds")
    add_arguments(command)
    command.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    config = _with_output(from_arguments(arguments), arguments)
    remarks = flag_remarks(arguments)
    quiet_libraries()
    if is_main_process():
        for sentence in remarks:
            log.info("%s", sentence)
    from ..training import dry_run, train

    if arguments.dry_run:
        dry_run(config)
        return 0
    return report(train(config))


def _with_output(config: TrainConfig, arguments: argparse.Namespace) -> TrainConfig:
    """The configuration with a folder whose concept is not overwritten, unless that is wanted."""

    def holds_concept(folder: Path) -> bool:
        return replace(config, output_dir=str(folder)).concept_path.exists()

    goes_on = bool(arguments.overwrite or config.resume_from_checkpoint)
    if config.resume_from_checkpoint and not arguments.output_dir:
        first = Path(config.output_dir)
        held = sorted(first.parent.glob(f"{first.name}-[0-9]*"))
        if held:
            names = ", ".join(str(folder) for folder in (first, *held) if folder.exists())
            raise ValueError(f"{names}: pass --output_dir to say which of these trainings goes on.")
    try:
        given = arguments.output_dir and config.output_dir
        folder = output_path(given, config.output_dir, goes_on, holds_concept)
    except ValueError:
        raise ValueError(
            f"{config.concept_path} is there already; pass another --output_dir, "
            "--resume_from_checkpoint latest to go on with it, or --overwrite to replace it."
        ) from None
    return replace(config, output_dir=str(folder))


def is_main_process() -> bool:
    """Whether this process of a training prints."""
    return int(os.environ.get("RANK", "0")) == 0


def report(trained: Trained) -> int:
    """Print how a training went; returns the exit status, 130 where Ctrl-C ended it, 143
    where SIGTERM did.
    """
    from ..generation import size_text

    if is_main_process():
        size = size_text(trained.path.stat().st_size)
        print(
            f"{shown(trained.path)}: {size}, {trained.concept.values:,} values, "
            f"{trained.steps} steps; loss at fixed noise "
            f"{trained.loss_before:.4f} -> {trained.loss_after:.4f}"
        )
        if trained.length:
            print(trained.length)
        if trained.address:
            print(f"uploaded to {shown(trained.address)}")
        if trained.stopped:
            print(f"stopped early: {trained.stopped}", file=sys.stderr)
    return trained.exit_status
