"""Loading a base: Toybox, a diffusers folder, a single checkpoint file, or a Hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .. import toybox
from .base import Family
from .elsewhere import lacking, load_lacking
from .hub import hub_options, reachable, unreached
from .quantization import FP8, quantization, store_in_fp8
from .registry import family_named, family_of_original, recognise
from .single_file import configuration, tokenizers

TOYBOX = "toybox"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")


def load_base(
    base: str,
    dtype: torch.dtype | None = torch.float32,
    checked: bool = False,
    quantize: str | None = None,
    **options: Any,
) -> Any:
    """The pipeline of a base: "toybox", a diffusers folder, a .safetensors file, or a Hub id.

    dtype: None means the precision that the base was published in; a base made in bfloat16 often
    overflows in float16. checked: keep the base's safety checker, if it has one. quantize: "4bit",
    "int8" or "fp8" (quantization.py). options go to diffusers (variant, revision ...). Only
    safetensors files are read. Raises ValueError when the base cannot be loaded.
    """
    if quantize == FP8:
        pipe = load_base(base, dtype, checked, **options)
        family = recognise(pipe)
        store_in_fp8(pipe, family, getattr(pipe, family.denoiser).dtype)
        return pipe
    if quantize and (base == TOYBOX or Path(base).is_file()):
        raise ValueError(
            f"quantize {quantize} reads a diffusers folder or a Hub id, and {base!r} is neither; "
            "pass --quantize fp8, or leave it out."
        )
    if base == TOYBOX:
        return toybox.load(dtype or torch.float16)
    refuse_pickles(Path(base))
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    options |= hub_options(base)
    try:
        family = _family(base, **options)  # before the weights: refused bases cost no download
        dtype = dtype or getattr(torch, family.dtype)
        if Path(base).is_file():
            return _from_file(Path(base), family, dtype=dtype, **options)
        if quantize:
            options["quantization_config"] = quantization(quantize, family, dtype)
        kind = pipeline_class(base, family, **options)
        more = _UNCHECKED if family.name == "sd" and not checked else {}
        more = more | _lacking(base, family, dtype, options)
        return kind.from_pretrained(base, dtype=dtype, use_safetensors=True, **more, **options)
    except (OSError, ValueError, RuntimeError, SingleFileComponentError) as error:
        raise not_loaded(base, error) from error


def configuration_of(base: str) -> Path:
    """The folder of a base's configurations: of a checkpoint file, of what ships with the package;
    of a Hub id, what is downloaded. Raises ValueError where there is none.
    """
    if Path(base).is_file():
        refuse_pickles(Path(base))
        if folder := configuration(original_kind(Path(base))):
            return folder
        raise ValueError(
            f"{Path(base).name} is a checkpoint of a kind whose configuration does not ship with "
            "this package; pass a diffusers folder or a Hub id of the same base."
        )
    if base == TOYBOX or Path(base).is_dir():
        return base_folder(base, ())
    return _downloaded(
        base,
        ["model_index.json", "*/config.json"],
        f"{base!r} is no diffusers folder, and its configuration could not be downloaded; pass "
        "'toybox', a folder with model_index.json, or a Hub id.",
    )


def family_of(base: str, revision: str | None = None) -> Family:
    """The family of a base, without loading its weights. Raises ValueError if that fails.

    revision: of a base on the Hub.
    """
    if base == TOYBOX:
        return family_named("StableDiffusionPipeline")
    try:
        return _family(base, **hub_options(base), **({"revision": revision} if revision else {}))
    except (OSError, ValueError) as error:
        raise not_loaded(base, error) from error


def _family(base: str, **options: Any) -> Family:
    """From the index of a folder or Hub id, or from the tensor names of a checkpoint file."""
    from diffusers import DiffusionPipeline
    from safetensors import SafetensorError

    path = Path(base)
    if not path.is_file():
        return family_named(str(DiffusionPipeline.load_config(base, **options)["_class_name"]))
    try:
        return family_of_original(original_kind(path))
    except SafetensorError as error:
        raise ValueError(f"{path.name} is not a safetensors file: {error}") from None


def pipeline_class(base: str, family: Family, **options: Any) -> Any:
    """What a folder or a Hub id is loaded as: its own class, or where that edits pictures, the
    family's for text to image, which takes the same models.
    """
    import diffusers

    named = str(diffusers.DiffusionPipeline.load_config(base, **options)["_class_name"])
    edits = named in family.editing
    return getattr(diffusers, family.pipelines[0]) if edits else diffusers.DiffusionPipeline


def _lacking(base: str, family: Family, dtype: torch.dtype, options: dict) -> dict[str, Any]:
    """The components that the base's repository lacks and that the options do not bring."""
    from diffusers import DiffusionPipeline

    if not family.elsewhere:
        return {}
    places = lacking(DiffusionPipeline.load_config(base, **options), family)
    quantized = getattr(options.get("quantization_config"), "quant_mapping", {})
    wanted = {part: place for part, place in places.items() if part not in options}
    return load_lacking(wanted, dtype, quantized)


def not_loaded(base: str, error: Exception) -> ValueError:
    """Why a base could not be loaded, and what to pass, in one sentence."""
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    if Path(base).is_file() and isinstance(error, OSError) and not reachable():
        reason = (
            "a checkpoint of this kind lacks configuration and tokenizers, which come from the "
            "Hub, and that cannot be reached"
        )
    elif hub_options(base):
        reason = unreached(base)
    return ValueError(
        f"the base {base!r} could not be loaded ({reason}); pass 'toybox', a diffusers folder, "
        "a .safetensors checkpoint, or a Hub id that this machine can download."
    )


def refuse_pickles(path: Path) -> None:
    """Raise ValueError for a file, or a folder's component, in a format that can run code."""
    if path.is_file() and path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is not a .safetensors file; other kinds of checkpoints can contain code "
            "and are not read. Get the base as safetensors."
        )
    for part in sorted(path.iterdir()) if path.is_dir() else ():
        held = sorted(file.name for file in part.iterdir()) if part.is_dir() else []
        pickles = [name for name in held if name.lower().endswith(PICKLES)]
        if pickles and not any(name.endswith(".safetensors") for name in held):
            raise ValueError(
                f"{part.name}/{pickles[0]} of the base {path.name!r} is a pickle, which can "
                "contain code, and is not read; get the base with safetensors files."
            )


_UNCHECKED = {"safety_checker": None, "requires_safety_checker": False}


def _from_file(path: Path, family: Family, **options: Any) -> Any:
    """The pipeline of a checkpoint file."""
    import diffusers

    kind, original = getattr(diffusers, family.pipelines[0]), original_kind(path)
    more: dict[str, Any] = dict(_UNCHECKED) if family.name == "sd" else {}
    if "config" not in options and (folder := configuration(original)):
        more |= {"config": str(folder), **tokenizers(original)}
    return kind.from_single_file(str(path), **more, **options)


def original_kind(path: Path) -> str:
    """diffusers' name for the kind of model in a checkpoint file; only the header is read."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    return infer_diffusers_model_type(
        {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    )


def base_folder(base: str, parts: tuple[str, ...], more: tuple[str, ...] = ()) -> Path:
    """The diffusers folder of a base; for a Hub id, the weights of the named components and the
    files that match the patterns `more` are downloaded.
    """
    if base == TOYBOX:
        return toybox.path()
    if Path(base).is_dir():
        return Path(base)
    return _downloaded(
        base,
        [*(f"{part}/*.safetensors" for part in parts), *more],
        f"the base {base!r} is not a diffusers folder and could not be downloaded from the Hub; "
        "pass the base that the concept was trained on.",
    )


def _downloaded(base: str, patterns: list[str], otherwise: str) -> Path:
    """The folder with the files of a Hub id that match the patterns; else a ValueError says so."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(base, allow_patterns=patterns, **hub_options(base)))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise ValueError(otherwise) from error


def base_name(base: str) -> str:
    """The name of a base in concept files: a Hub id unchanged, otherwise its folder's or file's.

    The path is left out, as it would reveal folders of the user's machine.
    """
    path = Path(base)
    if not base or not path.exists():
        return base or "unnamed"
    path = path.resolve()
    if path == toybox.path().resolve():
        return TOYBOX
    return path.stem if path.is_file() else path.name  # FLUX.1-dev is a folder's whole name
