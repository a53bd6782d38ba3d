"""The `svfit` command, assembled from its groups of commands.

What a command needs is imported when it runs, so that --help and info answer at once.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from .. import __version__
from . import app, completion, demo, doctor, evaluate, files, generate, info, rename, serve, train
from .terminal import shown

LESS_MEMORY = (
    "train with --train_batch_size 1 --gradient_checkpointing --offload, generate with --offload "
    "model; `svfit info --base BASE --memory` says what it takes."
)
GROUPS = (demo, train, generate, app, serve, info, files, rename, evaluate, doctor)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status. A user's mistake is one sentence and status 2."""
    parsed = command_parser().parse_args(arguments)
    try:
        return parsed.run(parsed)
    except (ValueError, OSError, MemoryError) as error:
        print(f"svfit: {shown(error) or 'memory is full'}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # torch's own is one, and torch is not imported here
        if type(error).__name__ != "OutOfMemoryError":
            raise
        reason = shown(error).partition(". ")[0]
        print(f"svfit: the device's memory is full ({reason}); {LESS_MEMORY}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("svfit: interrupted.", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line too, whatever a file is called."""

    def error(self, message: str) -> NoReturn:
        super().error(shown(message))


def command_parser() -> argparse.ArgumentParser:
    """The parser of all commands; what it returns has `run`, which does the command."""
    parser = _Parser(
        prog="svfit", description="Teach a diffusion model a subject; share a file of a few KB."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for group in GROUPS:
        group.add_command(commands)
    completion.add_command(commands, parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
