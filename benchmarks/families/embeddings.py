"""What pruning a text encoder's vocabulary could save of a base: its embeddings' share of all.

python -m benchmarks.families.embeddings
"""

from __future__ import annotations

import torch

from benchmarks.families.table import BASES, T5
from benchmarks.families.true_bases import T5_XXL, model

SHOWN = "Stable Diffusion 1.5", "SDXL 1.0", "SD 3 medium", "FLUX.1 dev"


def row(name: str) -> str:
    """Embeddings, encoders, denoiser, and the share that is embeddings."""
    parts = BASES[name][1] | {
        part: (by, T5_XXL) for part, (by, known) in BASES[name][1].items() if (by, known) == T5
    }
    with torch.device("meta"):  # no memory for the weights
        made = {part: model(*by, settings) for part, (by, settings) in parts.items()}
    encoders = [made[part] for part in made if part.startswith("text_encoder")]
    tables = sum(encoder.get_input_embeddings().weight.numel() for encoder in encoders)
    text, total = (sum(m.num_parameters() for m in part) for part in (encoders, made.values()))
    cells = [f"{number / 1e6:,.1f}" for number in (tables, text, total - text)]
    return f"| {name} | {' | '.join(cells)} | {tables / total:.1%} |"


def main() -> None:
    """Print the table."""
    print("| base | embeddings, million | text encoders | denoiser | share |")
    print("|---|---|---|---|---|")
    for name in SHOWN:
        print(row(name))


if __name__ == "__main__":
    main()
