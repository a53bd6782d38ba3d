"""The command line of a training: a flag for each setting, in its group, parsed by its type."""

from __future__ import annotations

import argparse
from dataclasses import Field, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from .config import PRESETS, TrainConfig
from .groups import GROUPS, RANK, TEXT_RANK


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for each field of TrainConfig, in its group, and --preset."""
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        default="tiny",
        help=f"tiny: rank {RANK}, {TEXT_RANK} for the text encoder's values and outputs, and a "
        "learned token; paper: rank by 99 %% of the energy, no token, one caption for all, and a "
        f"learning rate of {PRESETS['paper']['learning_rate']}",
    )
    for settings in GROUPS:
        group = parser.add_argument_group(settings.title)
        types = get_type_hints(settings)
        for item in fields(settings):
            group.add_argument(f"--{item.name}", **_argument(item, types[item.name]))


def _argument(item: Field, annotation: Any) -> dict[str, Any]:
    """argparse's options for a setting; a flag that is not given is None."""
    options = {"default": None, "help": item.metadata["help"].replace("%", "%%")}
    kind = value_type(annotation)
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
        options["help"] += f" (default: {'yes' if item.default else 'no'})"
        return options
    if item.default is not None:
        options["help"] += f" (default: {item.default})"
    options["type"] = item.metadata.get("parse", kind)
    options["choices"] = item.metadata.get("choices")
    return options


def value_type(annotation: Any) -> type:
    """The type of a setting's values where it is set: of `int | None`, int."""
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    return kinds[0]


def from_arguments(arguments: argparse.Namespace) -> TrainConfig:
    """The TrainConfig of parsed arguments; flags that were given win over the preset."""
    names = {item.name for item in fields(TrainConfig)}
    given = {k: v for k, v in vars(arguments).items() if k in names and v is not None}
    return TrainConfig(**(PRESETS[arguments.preset] | given))
