"""`svfit generate`: pictures with concepts, as PNGs that carry their parameters."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..settings import QUANTIZE
from .files import split_number
from .paths import add_overwrite, expanded
from .terminal import quiet_libraries, shown


def add_command(commands: Any) -> None:
    """Add `generate` to the commands."""
    command = commands.add_parser("generate", help="generate pictures with concepts")
    command.add_argument(
        "--prompt", required=True, help="what to show, with the concepts' triggers"
    )
    command.add_argument(
        "--concept",
        action="append",
        default=[],
        type=expanded,
        metavar="FILE[:STRENGTH]",
        help="a concept file and its strength (default: 1); may be given several times",
    )
    command.add_argument(
        "--base", default="toybox", type=expanded, help="base of the concepts (default: toybox)"
    )
    command.add_argument(
        "--basis_from", type=expanded, help="the original base, where --base is fine-tuned from it"
    )
    command.add_argument("--negative_prompt", default="", help="what not to show")
    command.add_argument("--num", type=int, default=4, help="pictures (default: 4)")
    command.add_argument("--seed", type=int, default=0, help="of the first picture (default: 0)")
    command.add_argument("--steps", type=int, help="denoising steps (default: the base's)")
    command.add_argument("--guidance", type=float, help="how closely the prompt is followed")
    command.add_argument("--width", type=int, help="pixels (default: the base's)")
    command.add_argument("--height", type=int, help="pixels (default: the base's)")
    _add_memory(command)
    command.add_argument(
        "--output_dir",
        default="svfit-pictures",
        type=expanded,
        help="folder of the PNGs, each under a free name",
    )
    add_overwrite(command)
    command.set_defaults(run=_generate)


def _add_memory(command: argparse.ArgumentParser) -> None:
    """The flags of precision and memory."""
    command.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="of the base (default: as published; on a CPU float32)",
    )
    command.add_argument("--quantize", choices=QUANTIZE, help="load the base in fewer bits")
    command.add_argument(
        "--offload",
        choices=("model", "sequential"),
        help="keep idle components, or idle layers, of the base in main memory",
    )


def _generate(arguments: argparse.Namespace) -> int:
    concepts = [split_number(text) for text in arguments.concept]
    from ..concept import locate, read_concept

    for path, _ in concepts:
        read_concept(locate(path))  # refuse a bad file before minutes of loading
    quiet_libraries()
    from ..concept import free_path
    from ..generation import generate, grid, save_png

    pipe = _pipeline(arguments, concepts)
    given = ("num", "seed", "steps", "guidance", "width", "height", "negative_prompt")
    folder, images = Path(arguments.output_dir), []
    name = Path if arguments.overwrite else free_path
    folder.mkdir(parents=True, exist_ok=True)
    pictures = generate(pipe, arguments.prompt, **{key: getattr(arguments, key) for key in given})
    for image, parameters in pictures:
        path = name(folder / f"{parameters.seed:08d}.png")
        save_png(image, path, parameters)
        print(shown(path))
        images.append(image)
    if len(images) > 1:
        path = name(folder / "grid.png")
        save_png(grid(images), path)
        print(shown(path))
    return 0


def _pipeline(arguments: argparse.Namespace, concepts: list[tuple[str, float]]) -> Any:
    """The base with the concepts on it, where it is to work."""
    import torch

    from ..families import load_base
    from ..generation import pick_device, pick_dtype
    from ..pipeline import adapter_name, load_concept, loaded_concepts, offload

    device = pick_device()
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else pick_dtype(device)
    pipe = load_base(arguments.base, dtype, quantize=arguments.quantize)
    if not arguments.offload:
        pipe.to(device)
    for path, strength in concepts:
        name = _free_name(adapter_name(Path(path).stem), loaded_concepts(pipe))
        load_concept(pipe, path, strength, name, basis_from=arguments.basis_from)
    if arguments.offload:
        offload(pipe, arguments.offload)
    return pipe


def _free_name(first: str, taken: Collection[str]) -> str:
    """A concept's name on a pipeline, numbered where another file has the same name."""
    name, number = first, 2
    while name in taken:
        name, number = f"{first}_{number}", number + 1
    return name
