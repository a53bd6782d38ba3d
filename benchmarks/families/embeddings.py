"""What pruning a text encoder's vocabulary could save of a base: its embeddings' share of all.

python -m benchmarks.families.embeddings
"""

from __future__ import annotations

import diffusers
import torch
import transformers

from benchmarks.families.table import BASES, T5
from benchmarks.families.true_bases import T5_XXL

SHOWN = "Stable Diffusion 1.5", "SDXL 1.0", "SD 3 medium", "FLUX.1 dev"


def build(library: str, kind: str, settings: dict) -> torch.nn.Module:
    """A model without memory for its weights."""
    with torch.device("meta"):
        if library == "diffusers":
            return getattr(diffusers, kind)(**settings)
        made = getattr(transformers, kind)
        return made(made.config_class(**settings))


def count(module: torch.nn.Module) -> int:
    """Its weights, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def row(name: str) -> str:
    """Embeddings, encoders, denoiser, and the share that is embeddings."""
    parts = BASES[name][1] | {
        part: (by, T5_XXL) for part, (by, known) in BASES[name][1].items() if (by, known) == T5
    }
    made = {part: build(*by, settings) for part, (by, settings) in parts.items()}
    encoders = [made[part] for part in made if part.startswith("text_encoder")]
    tables = sum(count(encoder.get_input_embeddings()) for encoder in encoders)
    text, total = sum(map(count, encoders)), sum(map(count, made.values()))
    cells = [f"{number / 1e6:,.1f}" for number in (tables, text, total - text)]
    return f"| {name} | {' | '.join(cells)} | {tables / total:.1%} |"


def main() -> None:
    """Print the table."""
    print(
        "| base | embeddings, million | text encoders | denoiser | share |\n|---|---|---|---|---|"
    )
    for name in SHOWN:
        print(row(name))


if __name__ == "__main__":
    main()
