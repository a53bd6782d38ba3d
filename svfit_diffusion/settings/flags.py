"""The command line of a training: a flag for each setting, in its group, parsed by its type."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import Field, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from .config import GROUPS, PRESETS, TrainConfig
from .diffusers_flags import add_diffusers_flags, explain, renamed
from .options import COMMON_SIZE, RANK, ROWS
from .run_file import RUN_FILE, read_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for each field of TrainConfig, in its group, --preset, --config, those of others."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"settings of an earlier training, the {RUN_FILE} beside its concept; flags win",
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="tiny",
        help=f"tiny: rank {RANK}, a common vector of {COMMON_SIZE:,} and a token of {ROWS} rows; "
        "tiniest: rank 4, no common vector and a token of one row; paper: rank by 99 %% of the "
        "energy alone, and one caption for all",
    )
    for settings in GROUPS:
        group = parser.add_argument_group(settings.title)
        types = get_type_hints(settings)
        for item in fields(settings):
            group.add_argument(f"--{item.name}", **_argument(item, types[item.name]))
    add_diffusers_flags(parser)


def add_some_arguments(parser: Any, names: Sequence[str], prefix: str = "") -> None:
    """The flags of some settings. prefix: of their help texts."""
    types, held = get_type_hints(TrainConfig), {item.name: item for item in fields(TrainConfig)}
    for name in names:
        options = _argument(held[name], types[name])
        parser.add_argument(f"--{name}", **options | {"help": prefix + options["help"]})


def _argument(item: Field, annotation: Any) -> dict[str, Any]:
    """argparse's options for a setting; a flag that is not given is None."""
    options = {"default": None, "help": item.metadata["help"].replace("%", "%%")}
    kind = value_type(annotation)
    if kind is bool and item.default is not None:
        options["help"] += f" (default: {'yes' if item.default else 'no'})"
    elif item.default is not None:
        options["help"] += f" (default: {item.default})"
    if kind is bool and not item.metadata.get("switch"):
        options["action"] = argparse.BooleanOptionalAction
        return options
    if item.metadata.get("switch"):
        options |= {"nargs": "?", "const": True}
    options["type"] = item.metadata.get("parse", kind)
    options["choices"] = item.metadata.get("choices")
    return options


def value_type(annotation: Any) -> type:
    """The type of a setting's values where it is set: of `int | None`, int."""
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    return kinds[0]


def from_arguments(arguments: argparse.Namespace) -> TrainConfig:
    """The TrainConfig of parsed arguments.

    Flags that were given win over the file of --config, and that over the preset.
    """
    names = {item.name for item in fields(TrainConfig)}
    given = {k: v for k, v in vars(arguments).items() if k in names and v is not None}
    if given.get("max_train_steps") is not None:
        given.pop("num_train_epochs", None)  # as in diffusers' scripts; flag_remarks says so
    held = read_run(os.path.expanduser(arguments.config)) if arguments.config else {}
    asked = held | renamed(arguments) | given
    return TrainConfig(**(PRESETS[arguments.preset] | asked))


def flag_remarks(arguments: argparse.Namespace) -> list[str]:
    """What of the flags has no effect, in sentences. ValueError for one that cannot be used."""
    found = explain(arguments)
    if arguments.num_train_epochs is not None and arguments.max_train_steps is not None:
        found.append("--num_train_epochs is not used: --max_train_steps says how long.")
    return found
