"""`svfit info`: what a concept file is, how large a base's concepts are, which bases are known."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..settings import TrainConfig, add_some_arguments
from .paths import expanded

SIZE = (
    *("rank", "value_rank", "text_encoder_rank", "attention", "train_text_encoder"),
    *("train_token", "common_size", "num_vectors", "delta_bits"),
)
MEMORY = (
    *("resolution", "train_batch_size", "mixed_precision", "gradient_checkpointing", "quantize"),
    "offload",
)


def add_command(commands: Any) -> None:
    """Add `info` to the commands."""
    info = commands.add_parser(
        "info",
        help="say what a concept file is, how large a base's are, or which bases are known",
        description="Say what a concept file is, without its base; with --base, count the "
        "projections, values and bytes of a concept of that base, without its weights; with "
        "--families, list the families that concepts can be trained on, and bases of each.",
    )
    info.add_argument("file", nargs="?", type=expanded, help="a concept's .safetensors file")
    info.add_argument(
        "--base",
        type=expanded,
        help="'toybox', a diffusers folder, a checkpoint file or a Hub id; no weight is read",
    )
    add_some_arguments(info, SIZE, "of --base: ")
    info.add_argument(
        "--memory",
        action="store_true",
        help="of --base: estimate the memory that training and generating take on the device with "
        "these settings, and what computing its basis takes here",
    )
    add_some_arguments(info, MEMORY, "of --memory: ")
    info.add_argument("--families", action="store_true", help="the families, and the bases of each")
    info.set_defaults(run=_info)


def _info(arguments: argparse.Namespace) -> int:
    asked = [arguments.file, arguments.base, arguments.families]
    if sum(map(bool, asked)) != 1:
        raise ValueError("info needs one of three: a concept's file, --base, or --families.")
    if arguments.families:
        return _families()
    return _concept(arguments) if arguments.file else _base(arguments)


def _families() -> int:
    """A line for each base that is known: what is in docs/bases.md beside sizes."""
    from ..families import FAMILIES

    rows = [("family", "base", "Hub id", "precision", "steps", "guidance", "word", "single file")]
    for family in FAMILIES:
        steps, guidance = family.defaults
        kinds = {"embedding": family.encoders, "output": family.word_outputs}
        word = " + ".join(kind for kind, held in kinds.items() if held) or "as typed"
        end = (family.dtype, str(steps), f"{guidance:g}", word, "yes" if family.original else "no")
        rows += [(family.name, name, source, *end) for name, source in family.bases.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    return 0


def _base(arguments: argparse.Namespace) -> int:
    from ..generation import size_text
    from ..pipeline import estimate_size

    given = {name: getattr(arguments, name) for name in (*SIZE, *MEMORY)}
    config = TrainConfig(**{name: value for name, value in given.items() if value is not None})
    found = estimate_size(arguments.base, config)
    parts = ", ".join(f"{number} of {part}" for part, number in found.projections.items())
    common = f", {found.common:,} of a common vector" if found.common else ""
    learned = f" and {found.trigger:,} of a learned word" if found.trigger else ""
    lines = {
        "base": f"{arguments.base} (family {found.family})",
        "weights": ", ".join(f"{n:,} of {part}" for part, n in found.weights.items()),
        "projections": f"{sum(found.projections.values())}: {parts}",
        "values": f"{found.values:,} singular values{common}{learned}",
        "file": f"{found.bytes:,} bytes",
        "basis": f"{found.basis:,} bytes, computed once and cached",
    }
    if arguments.memory:
        most, at_once, alone = found.memory
        lines["memory"] = (
            f"{size_text(most)} at most to compute the basis on this machine as it is now, "
            f"{at_once} of the largest weights at once; {size_text(alone)} with one at a time"
        )
        lines |= _memory(arguments.base, config)
    for key, value in lines.items():
        print(f"{key:<12} {value}")
    return 0


def _memory(base: str, config: TrainConfig) -> dict[str, str]:
    """Lines on what training and generating take at their peaks."""
    from ..generation import size_text
    from ..training import estimate_memory

    found = estimate_memory(base, config)
    held = ", ".join(f"{part} {size_text(size)}" for part, size in found.weights.items())
    lines = {
        "weights of": held,
        "training": f"{size_text(max(found.preparing, found.step))} on the device at most: "
        f"{size_text(found.preparing)} for photos and prompts, {size_text(found.step)} in a step "
        f"of {config.train_batch_size} pictures",
        "generating": f"{size_text(found.generating)} on the device at most",
    }
    if found.unknown:
        lines["left out"] = (
            f"all but the weights: this family's code asks for values, and there are only shapes "
            f"({found.unknown})"
        )
    return lines


def _concept(arguments: argparse.Namespace) -> int:
    from ..concept import printable, read_concept

    concept = read_concept(arguments.file)
    ranks = sorted(set(concept.ranks))
    span = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    learned = 0 if concept.trigger_rows is None else concept.trigger_rows.size
    bits = " in 4 bits" if concept.packed else ""
    size = concept.common_size
    common = f"{size:,} of a common vector, " if size else ""
    lines = {
        "file": f"{arguments.file} ({Path(arguments.file).stat().st_size:,} bytes)",
        "trigger": f"{concept.trigger} ({'learned' if learned else 'not learned'})",
        "base": f"{concept.base} (family {concept.family})",
        "values": f"{concept.values:,}: {concept.deltas.size:,} singular values of "
        f"{len(concept.ranks)} projections{bits}, {common}{learned:,} of the trigger",
        "rank": f"{concept.rank} ({span} per projection)",
        "attention": ", ".join(f"{part}: {kind}" for part, kind in sorted(concept.targets.items())),
        "training": ", ".join(f"{key} {value}" for key, value in sorted(concept.training.items())),
        "licence": concept.license or "not stated",
        "created": concept.created or "not stated",
    }
    if concept.outputs:
        places = (f"{part} ({_layers(layers)})" for part, layers in sorted(concept.outputs.items()))
        lines["output"] = f"the word is added to that of {', '.join(places)}"
    for key, value in lines.items():
        print(printable(f"{key:<10} {value}"))
    return 0


def _layers(layers: tuple[int, ...]) -> str:
    """Which hidden states of a text encoder, in words."""
    return f"hidden states {', '.join(map(str, layers))}" if layers else "last hidden state"
