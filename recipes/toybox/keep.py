"""Keep the work folder's weights in `weights/`, in half precision, for restore.py to go on from.

Run: python recipes/toybox/keep.py --checkpoint decayed.pt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import RECIPE, sha256, work_dir, write_json
from safetensors.torch import save_file


def keep(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write one component in half precision."""
    halves = {name: value.half().contiguous() for name, value in state.items()}
    save_file(halves, path, {"format": "pt"})
    print(path.name, path.stat().st_size, "bytes, SHA-256", sha256(path))


def main() -> None:
    """Write what there is."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", default="decayed.pt")
    args = parser.parse_args()
    folder, work = RECIPE / "weights", work_dir()
    folder.mkdir(exist_ok=True)
    state = torch.load(work / "unet" / args.checkpoint, weights_only=True)
    keep(folder / "unet.safetensors", state["ema_unet"])
    keep(folder / "text_encoder.safetensors", state["ema_text"])
    keep(
        folder / "vae.safetensors", torch.load(work / "vae" / "final.pt", weights_only=True)["vae"]
    )
    facts = {"steps": state["step"], "samples": state["samples"], "objects": state["objects"]}
    write_json(folder / "facts.json", facts)


if __name__ == "__main__":
    main()
