"""The `svfit` command. What a command needs is imported when it runs: --help and info are quick."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from .. import __version__
from ..settings import add_arguments, from_arguments
from . import evaluate as cli_evaluate
from . import files as cli_files
from . import info as cli_info
from .files import shown


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status. A user's mistake is one sentence and status 2."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except (ValueError, OSError) as error:
        print(f"svfit: {shown(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("svfit: interrupted.", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line too, whatever a file is called."""

    def error(self, message: str) -> NoReturn:
        super().error(shown(message))


class _OneLine(logging.Formatter):
    """Messages as one line each: they may name files and quote their text."""

    def format(self, record: logging.LogRecord) -> str:
        return shown(record.getMessage())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="svfit", description="Teach a diffusion model a subject; share a file of a few KB."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="learn the sample subject and draw it, offline")
    demo.add_argument("--output_dir", default="svfit-demo", help="folder of all that is made")
    demo.add_argument("--max_train_steps", type=int, help="optimizer steps, for a quick look")
    demo.set_defaults(run=_demo)

    train = commands.add_parser(
        "train",
        help="learn a subject from photos",
        description="Learn a subject from a folder of photos; without arguments, the sample.",
    )
    add_arguments(train)
    train.set_defaults(run=_train)

    draw = commands.add_parser("generate", help="draw pictures with concepts")
    draw.add_argument("--prompt", required=True, help="what to draw, with the concepts' triggers")
    draw.add_argument(
        "--concept",
        action="append",
        default=[],
        metavar="FILE[:STRENGTH]",
        help="a concept file and its strength (default: 1); may be given several times",
    )
    draw.add_argument("--base", default="toybox", help="base of the concepts (default: toybox)")
    draw.add_argument("--basis_from", help="the original base, where --base is fine-tuned from it")
    draw.add_argument("--negative_prompt", default="", help="what not to draw")
    draw.add_argument("--num", type=int, default=4, help="pictures (default: 4)")
    draw.add_argument("--seed", type=int, default=0, help="of the first picture (default: 0)")
    draw.add_argument("--steps", type=int, help="denoising steps (default: 25)")
    draw.add_argument("--guidance", type=float, help="how closely the prompt is followed")
    draw.add_argument("--width", type=int, help="pixels (default: the base's)")
    draw.add_argument("--height", type=int, help="pixels (default: the base's)")
    draw.add_argument("--dtype", choices=("float32", "float16", "bfloat16"),
                      help="of the base (default: as published; on a CPU float32)")  # fmt: skip
    draw.add_argument("--quantize", choices=("4bit", "int8"), help="load the base in fewer bits")
    draw.add_argument(
        "--offload",
        choices=("model", "sequential"),
        help="keep idle components, or idle layers, of the base in main memory",
    )
    draw.add_argument("--output_dir", default="svfit-pictures", help="folder of the PNGs")
    draw.set_defaults(run=_generate)

    app = commands.add_parser("app", help="train, draw and share concepts in the browser")
    app.add_argument("--base", default="toybox", help="base of the concepts (default: toybox)")
    app.add_argument("--host", default="127.0.0.1", help="address to serve on (default: 127.0.0.1)")
    app.add_argument("--port", type=int, help="port to serve on (default: a free one from 7860)")
    app.add_argument(
        "--concept",
        action="append",
        default=[],
        metavar="FILE",
        help="a concept file for the library, in use from the start; may be given several times",
    )
    app.add_argument(
        "--auth", metavar="USER:PASSWORD", help="login; needed where --host lets others in"
    )
    app.set_defaults(run=_app)

    cli_info.add_command(commands)
    cli_files.add_commands(commands, _quiet)
    cli_evaluate.add_command(commands, _quiet)
    return parser


def _quiet() -> None:
    """Show our own messages and errors, not the libraries' remarks on one another."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(handlers=[handler], level=logging.ERROR)
    logging.getLogger("svfit_diffusion").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="peft|torch|diffusers")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _demo(arguments: argparse.Namespace) -> int:
    _quiet()
    from .demo import run_demo

    return _report(run_demo(arguments.output_dir, arguments.max_train_steps).trained)


def _train(arguments: argparse.Namespace) -> int:
    config = from_arguments(arguments)
    _quiet()
    from ..training import train

    return _report(train(config))


def _report(trained) -> int:
    """Say how a training went; returns 130 where Ctrl-C ended it."""
    from ..generation import size_text

    if int(os.environ.get("RANK", "0")) == 0:
        size = size_text(trained.path.stat().st_size)
        print(
            f"{shown(trained.path)}: {size}, {trained.concept.values:,} values, "
            f"{trained.steps} steps; loss on held-out noise "
            f"{trained.loss_before:.4f} -> {trained.loss_after:.4f}"
        )
        if trained.length:
            print(trained.length)
        if trained.stopped:
            print(f"stopped early: {trained.stopped}", file=sys.stderr)
    return trained.exit_status


def _generate(arguments: argparse.Namespace) -> int:
    concepts = [cli_files.split_number(text) for text in arguments.concept]
    from ..concept import locate, read_concept

    for path, _ in concepts:
        read_concept(locate(path))  # refuse a bad file before minutes of loading
    _quiet()
    import torch

    from ..families import load_base
    from ..generation import generate, grid, pick_device, pick_dtype, save_png
    from ..pipeline import load_concept, offload

    device = pick_device()
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else pick_dtype(device)
    pipe = load_base(arguments.base, dtype, quantize=arguments.quantize)
    if not arguments.offload:
        pipe.to(device)
    for path, strength in concepts:
        load_concept(pipe, path, strength, basis_from=arguments.basis_from)
    if arguments.offload:
        offload(pipe, arguments.offload)
    given = ("num", "seed", "steps", "guidance", "width", "height", "negative_prompt")
    folder, images = Path(arguments.output_dir), []
    folder.mkdir(parents=True, exist_ok=True)
    pictures = generate(pipe, arguments.prompt, **{key: getattr(arguments, key) for key in given})
    for image, parameters in pictures:
        path = folder / f"{parameters.seed:08d}.png"
        save_png(image, path, parameters)
        print(shown(path))
        images.append(image)
    if len(images) > 1:
        save_png(grid(images), folder / "grid.png")
        print(shown(folder / "grid.png"))
    return 0


def _app(arguments: argparse.Namespace) -> int:
    _quiet()
    from ..web.service import run_app

    run_app(arguments.base, arguments.host, arguments.port, arguments.concept, arguments.auth)
    return 0


if __name__ == "__main__":
    sys.exit(main())
