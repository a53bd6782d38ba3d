"""Commands on concept files: export, import, merge, push."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .paths import add_overwrite, expanded, filled, output_path
from .terminal import quiet_libraries, shown


def add_command(commands: Any) -> None:
    """Add `export`, `import`, `merge` and `push` to the commands."""
    _add_export(commands)
    _add_import(commands)
    merge = commands.add_parser("merge", help="several concepts of one base as one file")
    merge.add_argument(
        "files", nargs="+", metavar="FILE[:WEIGHT]", type=expanded, help="weight 1 if not given"
    )
    merge.add_argument("-o", "--output", required=True, type=expanded, help="the file to write")
    merge.add_argument("--words", nargs="+", help="another trigger for each, where two are alike")
    add_overwrite(merge)
    merge.add_argument(
        "--base", type=expanded, help="the base; needed where projections or ranks differ"
    )
    merge.set_defaults(run=_merge)

    push = commands.add_parser("push", help="upload a concept to the Hugging Face Hub")
    push.add_argument("file", type=expanded, help="a concept's .safetensors file")
    push.add_argument("repo_id", help="user/name")
    push.add_argument(
        "--picture", action="append", default=[], type=expanded, help="a PNG of svfit generate"
    )
    push.add_argument("--private", action="store_true", help="only you can see it")
    push.set_defaults(run=_push)


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="a concept for other programs, as a LoRA")
    export.add_argument("file", type=expanded, help="a concept's .safetensors file, or a Hub id")
    export.add_argument(
        "--to",
        required=True,
        choices=("kohya", "diffusers"),
        help="kohya: ComfyUI, AUTOMATIC1111, Forge, InvokeAI; diffusers: for SD, SDXL no other",
    )
    export.add_argument(
        "--base", default="toybox", type=expanded, help="base of the concept (default: toybox)"
    )
    export.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="of the file (default: float16)"
    )
    export.add_argument("--strength", type=float, default=1.0, help="put into it (default: 1)")
    export.add_argument("--fuse", action="store_true", help="write the whole base, concept merged")
    export.add_argument(
        "--bundle", action="store_true", help="learned word in the LoRA: AUTOMATIC1111, Forge"
    )
    add_overwrite(export)
    export.add_argument(
        "--preview", type=expanded, help="a picture to show; 'draw' generates one (default: none)"
    )
    export.add_argument(
        "--output", type=expanded, help="file, or folder with --fuse (default: by FILE's name)"
    )
    export.set_defaults(run=_export)


def _add_import(commands: Any) -> None:
    parser = commands.add_parser("import", help="make a concept of what it can hold of a LoRA")
    parser.add_argument("file", type=expanded, help="a LoRA's .safetensors file (kohya, diffusers)")
    parser.add_argument(
        "--base", default="toybox", type=expanded, help="base of the LoRA (default: toybox)"
    )
    parser.add_argument(
        "--rank", help="a number, full or energy=0.99 (default: 16, or that of an exported concept)"
    )
    add_overwrite(parser)
    parser.add_argument("--trigger", help="words that call it; default: what the file states")
    parser.add_argument(
        "--output", type=expanded, help="the concept file (default: FILE-svfit.safetensors)"
    )
    parser.set_defaults(run=_import)


def split_number(text: str) -> tuple[str, float]:
    """ "a.safetensors:0.8" -> the path and the number; a bare path has 1."""
    path, colon, number = text.rpartition(":")
    try:
        return (path, float(number)) if colon else (text, 1.0)
    except ValueError:
        return text, 1.0  # a colon of the path's own, as in C:\\


def _export(given: argparse.Namespace) -> int:
    if given.fuse and given.to != "diffusers":
        raise ValueError("--fuse writes a diffusers folder; pass --to diffusers with it.")
    from ..concept import locate, read_concept

    concept = read_concept(locate(given.file))
    quiet_libraries()
    path = _export_path(given, concept)
    from ..families import load_base, outline_base
    from ..sharing import export_lora, export_pipeline

    if given.fuse:
        pipe = load_base(given.base)
        made = export_pipeline(concept, pipe, path, given.dtype or "float32", given.strength)
    else:
        image = _preview(given, concept)
        made = export_lora(
            concept,
            outline_base(given.base),
            path,
            given.to,
            given.dtype or "float16",
            given.strength,
            image,
            given.bundle,
            lambda size: print(f"{shown(path)}: {size:,} bytes"),
        )
    for file in made.files[0 if given.fuse else 1 :]:
        print(shown(file))
    print("call it by")
    for program, call in made.calls.items():
        print(f"  in {program}: {shown(call)}")
    if made.lacks:
        print(shown(made.lacks))
    if given.to == "diffusers" and not given.fuse and concept.family in ("sd", "sdxl"):
        print("ComfyUI, AUTOMATIC1111 and Forge do not read this form; for them, pass --to kohya.")
    return 0


def _export_path(given: argparse.Namespace, concept: Any) -> Path:
    """The file or folder to write, of which nothing is there yet."""
    from ..sharing import lora_files, plain_name

    stem = plain_name(Path(given.file).stem)
    if given.fuse:
        return output_path(given.output, f"{stem}-fused", given.overwrite, filled)
    if given.output and Path(given.output).suffix != ".safetensors":
        raise ValueError(
            f"{given.output} must end in .safetensors, by which other programs find it."
        )

    def taken(path: Path) -> bool:
        return any(file.exists() for file in lora_files(concept, path))

    return output_path(given.output, f"{stem}-{given.to}.safetensors", given.overwrite, taken)


def _preview(given: argparse.Namespace, concept: Any) -> Any:
    """The picture to show: a file's, a generated one, or none."""
    if given.preview in (None, "none"):
        return None
    if given.preview != "draw":
        from PIL import Image

        return Image.open(given.preview).convert("RGB")
    from ..families import load_base
    from ..generation import generate, is_withheld
    from ..pipeline import load_concept

    pipe = load_base(given.base)
    load_concept(pipe, concept, given.strength)
    image, _ = next(generate(pipe, f"a photo of {concept.trigger}"))
    return None if is_withheld(image) else image


def _import(given: argparse.Namespace) -> int:
    quiet_libraries()
    from ..concept import write_concept
    from ..families import outline_base
    from ..sharing import import_lora

    default = f"{Path(given.file).stem}-svfit.safetensors"
    path = output_path(given.output, default, given.overwrite)
    made = import_lora(given.file, outline_base(given.base), given.rank, given.trigger)
    path = write_concept(made.concept, path)
    print(
        f"{shown(path)}: {path.stat().st_size:,} bytes hold {made.share:.1%} of the LoRA's energy "
        f"({made.used} of its modules are projections here, {made.others} are not)"
    )
    if made.share < 0.5:
        print("that is too little to generate what the LoRA does; use the LoRA itself.")
    return 0


def _merge(given: argparse.Namespace) -> int:
    from ..concept import locate, read_concept, write_concept

    named = [split_number(text) for text in given.files]
    concepts = [(read_concept(locate(path)), weight) for path, weight in named]
    path = output_path(given.output, given.output, given.overwrite)
    quiet_libraries()
    from ..sharing import combine

    pipe = None
    if given.base:
        from ..families import load_base

        pipe = load_base(given.base)
    made = combine(concepts, given.words, pipe)
    path = write_concept(made, path)
    print(f"{shown(path)}: {path.stat().st_size:,} bytes, called by {shown(made.trigger)}")
    return 0


def _push(given: argparse.Namespace) -> int:
    from ..sharing import push_to_hub

    print(shown(push_to_hub(given.file, given.repo_id, given.picture, given.private)))
    return 0
