"""`svfit train`: learn a subject from photos."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from ..settings import add_arguments, from_arguments
from .terminal import quiet_libraries, shown

if TYPE_CHECKING:
    from ..training import Trained


def add_command(commands: Any) -> None:
    """Add `train` to the commands."""
    command = commands.add_parser(
        "train",
        help="learn a subject from photos",
        description="Learn a subject from a folder of photos; without arguments, the sample.",
    )
    add_arguments(command)
    command.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    config = from_arguments(arguments)
    quiet_libraries()
    from ..training import train

    return report(train(config))


def report(trained: Trained) -> int:
    """Print how a training went; returns the exit status, 130 where Ctrl-C ended it."""
    from ..generation import size_text

    if int(os.environ.get("RANK", "0")) == 0:
        size = size_text(trained.path.stat().st_size)
        print(
            f"{shown(trained.path)}: {size}, {trained.concept.values:,} values, "
            f"{trained.steps} steps; loss at fixed noise "
            f"{trained.loss_before:.4f} -> {trained.loss_after:.4f}"
        )
        if trained.length:
            print(trained.length)
        if trained.stopped:
            print(f"stopped early: {trained.stopped}", file=sys.stderr)
    return trained.exit_status
