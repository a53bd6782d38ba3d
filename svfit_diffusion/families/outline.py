"""A base without its weights: what reading and writing a concept's LoRA needs of it.

The models that a concept may edit are there by their configurations only, on torch's meta device;
their basis is read from their files (adapter), one weight at a time. Of the weights only the tables
of embeddings are loaded, where a learned word starts.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from .. import toybox
from .hub import hub_options
from .loading import TOYBOX, base_folder, load_base, not_loaded, refuse_pickles
from .registry import family_named

SMALL = ("*.json", "*/*.json", "*/*.txt", "*/*.model")  # configurations and tokenizers
EMBEDDING = "token_embedding.weight"  # the end of its tensor's name in a CLIP encoder's file


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
        models: dict[str, Any] = dict.fromkeys(index_models(index))
        for part in (family.denoiser, *taught):
            if part in models:
                models[part] = _model(folder / part, *index[part])
        for part in taught:
            if models.get(part) is not None:
                _load_embedding(models[part], folder / part)
        return DiffusionPipeline.from_pretrained(
            folder, use_safetensors=True, **models, **hub_options(base)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise not_loaded(base, error) from error


def index_models(index: dict[str, Any]) -> list[str]:
    """The components of a pipeline's index that have weights."""
    return [
        part
        for part, value in index.items()
        if isinstance(value, list | tuple)
        and value[0] is not None
        and issubclass(_class(*value), nn.Module)
    ]


def _class(library: str, name: str) -> type:
    module = importlib.import_module(library)
    return getattr(module, name, object)


def _model(folder: Path, library: str, name: str) -> nn.Module:
    """A model by its configuration, on the meta device, that knows where its files are."""
    kind: Any = _class(library, name)
    with torch.device("meta"):
        if library == "transformers":
            model = kind(kind.config_class.from_json_file(folder / "config.json"))
            model.config._name_or_path = model.name_or_path = str(folder)
            return model
        model = kind.from_config(kind.load_config(folder))
    model.register_to_config(_name_or_path=str(folder))
    return model


def _load_embedding(encoder: nn.Module, folder: Path) -> None:
    """The table of embeddings of a text encoder, float32, from its files."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            key = next((k for k in file.keys() if k.endswith(EMBEDDING)), None)  # noqa: SIM118
            if key is not None:
                encoder.get_input_embeddings().weight = nn.Parameter(file.get_tensor(key).float())
                return
    raise ValueError(f"{folder.name} holds no safetensors file with its {EMBEDDING}")
