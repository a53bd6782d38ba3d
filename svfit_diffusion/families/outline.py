"""A base without its weights: what sizes, and a concept's LoRA, need of it.

The models that a concept may edit are there by their configurations only, on torch's meta device,
where a tensor has a shape and no values; their basis is read from their files (adapter), one
weight at a time. Of the weights only the tables of embeddings are loaded, where learned words
start.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .. import toybox
from .base import Family, WordOutput
from .elsewhere import is_tokenizer, lacking, lacking_configuration, load_lacking
from .hub import hub_options
from .loading import TOYBOX, base_folder, load_base, not_loaded, pipeline_class, refuse_pickles
from .registry import family_named

SMALL = ("*.json", "*/*.json", "*/*.txt", "*/*.model")  # configurations and tokenizers
EMBEDDING = "token_embedding.weight"  # the end of its tensor's name in a CLIP encoder's file


def skeleton(folder: Path) -> tuple[Family, dict[str, nn.Module]]:
    """The family of a diffusers folder, and its components that a concept may edit, on meta.

    Its weights may be missing. Raises ValueError where a configuration is.
    """
    index = _json(folder / "model_index.json")
    family = family_named(str(index.get("_class_name")))
    models: dict[str, nn.Module] = {}
    for part in (family.denoiser, *(part for _, part in family.encoders)):
        library, kind = index.get(part) or (None, None)
        if kind is None:
            continue
        if library not in ("diffusers", "transformers"):
            raise ValueError(f"{part} of this base is of {library!r}; expected diffusers' own.")
        models[part] = _without_weights(folder / part, library, kind)
    return family, models


def hollow_base(base: str, dtype: torch.dtype) -> tuple[Any, Family]:
    """The pipeline of a base ("toybox", a diffusers folder or a Hub id) with all of its models on
    meta, in a precision, and its family. Tokenizers are real; a frozen text encoder takes real
    token ids and gives zeros of the shapes that it would. The VAE is in float32 unless all is.
    """
    if Path(base).is_file():
        raise ValueError(f"{Path(base).name} is a checkpoint file; pass a diffusers folder.")
    refuse_pickles(Path(base))
    try:
        folder = base_folder(base, (), SMALL)
        index = _json(folder / "model_index.json")
        family = family_named(str(index.get("_class_name")))
        places = lacking(index, family)
        words = {part: place for part, place in places.items() if is_tokenizer(part)}
        parts = [*_with_weights(index), *(places.keys() - words.keys())]
        made = {part: _without_weights(*_described(folder, part, index, places)) for part in parts}
        for part, model in made.items():
            model.to(torch.float32 if part == "vae" else dtype).eval()
        for encoder in family.frozen_text_encoders:
            if encoder.model in made:
                _give_zeros(made[encoder.model])
        kind = pipeline_class(str(folder), family)
        made |= load_lacking(words, dtype, {})
        return kind.from_pretrained(folder, use_safetensors=True, **made), family
    except (OSError, RuntimeError, AttributeError) as error:
        raise not_loaded(base, error) from error


def _without_weights(folder: Path, library: str, kind: str) -> nn.Module:
    """A component by the configuration in its folder, on meta."""
    made, settings = (
        getattr(importlib.import_module(library), kind),
        _json(folder / "config.json"),
    )
    with torch.device("meta"):
        if library == "diffusers":
            return made.from_config(settings)
        return made(made.config_class.from_dict(settings))


def _give_zeros(encoder: Any) -> None:
    """Let an encoder on meta answer token ids [n, length] with states of zeros, on the CPU."""
    from transformers.modeling_outputs import BaseModelOutput

    settings = encoder.config.get_text_config()

    def zeros(input_ids: Tensor, *_: Any, **__: Any) -> Any:
        states = torch.zeros(*input_ids.shape, settings.hidden_size, dtype=encoder.dtype)
        layers = (states,) * (settings.num_hidden_layers + 1)
        return BaseModelOutput(last_hidden_state=states, hidden_states=layers)

    encoder.forward = zeros


def _described(
    folder: Path, part: str, index: dict[str, Any], places: dict[str, tuple[str, str]]
) -> tuple[Path, Any, Any]:
    """The folder of a component's configuration, its library and its class, None where there is no
    such component. places: of those that the base lacks.
    """
    if part in places:
        kind, source = places[part]
        return lacking_configuration(part, source), "transformers", kind
    return folder / part, *(index.get(part) or (None, None))


def output_widths(folder: Path, family: Family) -> dict[WordOutput, int]:
    """The numbers of a word in the output of each text encoder of a diffusers folder that has one.

    Its weights may be missing. Raises ValueError where a configuration is.
    """
    index, found = _json(folder / "model_index.json"), {}
    places = lacking(index, family)
    for output in family.word_outputs:
        held, library, kind = _described(folder, output.encoder.model, index, places)
        if kind is not None:
            made = getattr(importlib.import_module(library), kind).config_class
            settings = made.from_dict(_json(held / "config.json"))
            width = settings.get_text_config().hidden_size
            found[output] = max(1, len(output.layers)) * width
    return found


def outline_base(base: str) -> Any:
    """The pipeline of a base ("toybox", a diffusers folder or a Hub id), nearly without weights.

    It cannot generate. A single checkpoint file is loaded whole. Raises ValueError when the base
    cannot be loaded.
    """
    if Path(base).is_file():
        return load_base(base)
    from diffusers import DiffusionPipeline

    refuse_pickles(Path(base))
    try:
        start = toybox.path() if base == TOYBOX else base
        index = DiffusionPipeline.load_config(start, **hub_options(base))
        family = family_named(str(index["_class_name"]))
        taught = tuple(model for _, model in family.encoders)
        folder = base_folder(base, (family.denoiser, *taught), SMALL)
        _, models = skeleton(folder)
        for part, model in models.items():
            _tell_origin(model, folder / part)
            if part in taught:
                _load_embedding(model, folder / part)
        absent = {part: None for part in _with_weights(index) if part not in models}
        absent |= dict.fromkeys(lacking(index, family))
        return pipeline_class(str(folder), family).from_pretrained(
            folder, use_safetensors=True, **models, **absent, **hub_options(base)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise not_loaded(base, error) from error


def _with_weights(index: dict[str, Any]) -> list[str]:
    """The components of a pipeline's index that are models."""
    found = []
    for part, value in index.items():
        if isinstance(value, list | tuple) and isinstance(value[0], str):  # or numbers of layers
            kind = getattr(importlib.import_module(value[0]), value[1], object)
            if issubclass(kind, nn.Module):
                found.append(part)
    return found


def _tell_origin(model: Any, folder: Path) -> None:
    """Let a model say where its files are, as if it had been loaded from there."""
    if hasattr(model, "register_to_config"):
        model.register_to_config(_name_or_path=str(folder))
    else:
        model.config._name_or_path = model.name_or_path = str(folder)


def _load_embedding(encoder: Any, folder: Path) -> None:
    """The table of embeddings of a text encoder, float32, from its files."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            key = next((k for k in file.keys() if k.endswith(EMBEDDING)), None)  # noqa: SIM118
            if key is not None:
                encoder.get_input_embeddings().weight = nn.Parameter(file.get_tensor(key).float())
                return
    raise ValueError(f"{folder.name} holds no safetensors file with its {EMBEDDING}")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        raise ValueError(f"{path} is missing or no JSON; pass a diffusers folder.") from None
