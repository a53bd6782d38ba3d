"""`svfit completion`: a script that completes commands, flags and files in a shell (by shtab)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from ..settings import TrainConfig
from .paths import expanded

SHELLS = ("bash", "zsh", "tcsh")


def add_command(commands: Any, parser: argparse.ArgumentParser) -> None:
    """Add `completion` to the commands of a parser, which it completes."""
    command = commands.add_parser(
        "completion",
        help="print a script that completes commands and flags in a shell",
        description='Print a script for a shell. In ~/.bashrc: eval "$(svfit completion bash)"; '
        "for zsh: svfit completion zsh > a file _svfit in a folder of $fpath.",
    )
    command.add_argument("shell", choices=SHELLS)
    command.set_defaults(run=lambda arguments: _completion(parser, arguments.shell))


def _completion(parser: argparse.ArgumentParser, shell: str) -> int:
    import shtab

    paths = {item.name for item in fields(TrainConfig) if item.metadata.get("path")} | {"config"}
    for action in _actions(parser):
        if action.type is expanded or action.dest in paths:
            action.complete = shtab.FILE
    print(shtab.complete(parser, shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """The flags of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
