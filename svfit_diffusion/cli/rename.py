"""`svfit rename`: another word for a concept."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .paths import add_overwrite, expanded, output_path
from .terminal import shown


def add_command(commands: Any) -> None:
    """Add `rename` to the commands."""
    command = commands.add_parser("rename", help="another word that calls a concept")
    command.add_argument("file", type=expanded, help="a concept's .safetensors file")
    command.add_argument("word", help="one word, such as zwx")
    command.add_argument("--old", metavar="WORD", help="which word, where there are several")
    command.add_argument(
        "-o", "--output", type=expanded, help="the file to write (default: FILE-WORD.safetensors)"
    )
    add_overwrite(command)
    command.set_defaults(run=_rename)


def _rename(given: argparse.Namespace) -> int:
    from ..concept import read_concept, write_concept
    from ..sharing import plain_name, rename

    made = rename(read_concept(given.file), given.word, given.old)
    default = f"{Path(given.file).stem}-{plain_name(given.word)}.safetensors"
    path = write_concept(made, output_path(given.output, default, given.overwrite))
    print(f"{shown(path)}: called by {shown(made.trigger)}")
    return 0
