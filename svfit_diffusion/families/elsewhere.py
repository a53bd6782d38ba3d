"""Components that a base's repository lacks, because they are published at another place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .base import Family
from .hub import hub_options


def lacking(index: Mapping[str, Any], family: Family) -> dict[str, tuple[str, str]]:
    """Component -> transformers' class and Hub id, of those that a pipeline's index lacks."""
    return {
        part: place
        for part, place in family.elsewhere.items()
        if (index.get(part) or (None,))[0] is None
    }


def is_tokenizer(part: str) -> bool:
    """Whether a component is a tokenizer, by its name in a pipeline."""
    return part.startswith("tokenizer")


def load_lacking(
    places: Mapping[str, tuple[str, str]], dtype: torch.dtype, quantized: Mapping[str, Any]
) -> dict[str, Any]:
    """The components of these places, models in a precision; quantized: settings of some."""
    import transformers

    found = {}
    for part, (kind, source) in places.items():
        made, options = getattr(transformers, kind), hub_options(source)
        if part in quantized:
            options["quantization_config"] = quantized[part]
        if not is_tokenizer(part):
            options["dtype"] = dtype
        try:
            found[part] = made.from_pretrained(source, use_safetensors=True, **options)
        except (OSError, ValueError) as error:
            raise _not_had(part, source) from error
    return found


def lacking_configuration(part: str, source: str) -> Path:
    """The folder with the configuration of such a component."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(hf_hub_download(source, "config.json", **hub_options(source))).parent
    except (OSError, HfHubHTTPError) as error:
        raise _not_had(part, source) from error


def _not_had(part: str, source: str) -> ValueError:
    return ValueError(
        f"its {part} is published as {source!r}, which could not be downloaded: accept its licence "
        "on the Hub, then run `hf auth login`"
    )
