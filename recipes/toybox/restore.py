"""Go on from the shipped model on a machine that has no work folder: VAE, tokenizer, weights.

Writes `vae/final.pt`, `tokenizer/` and `unet/start.pt` of the work folder from
`svfit_diffusion/toybox/model/`; files that are there already stay. The shipped weights are
averages in half precision, so momentum starts anew.
Run: python recipes/toybox/restore.py
"""

from __future__ import annotations

import json
import shutil

import torch
from common import EXPORT, RECIPE, save_checkpoint, work_dir
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel


def weights(kind: type, folder: str) -> dict[str, torch.Tensor]:
    """The shipped weights of one component, in float32."""
    return kind.from_pretrained(EXPORT / folder).float().state_dict()


def main() -> None:
    """Fill the gaps of the work folder."""
    work, facts = work_dir(), json.loads((RECIPE / "export.json").read_text("utf-8"))
    if not (work / "tokenizer").is_dir():
        shutil.copytree(EXPORT / "tokenizer", work / "tokenizer")
    if not (work / "vae" / "final.pt").is_file():
        save_checkpoint(work / "vae" / "final.pt", {"vae": weights(AutoencoderKL, "vae")})
    if not (work / "unet" / "start.pt").is_file():
        save_checkpoint(work / "unet" / "start.pt", {
            "unet": weights(UNet2DConditionModel, "unet"),
            "text": weights(CLIPTextModel, "text_encoder"),
            "step": facts["steps"], "samples": facts["samples"],
        })  # fmt: skip
    print(f"{work} holds what is needed to go on from step {facts['steps']}")


if __name__ == "__main__":
    main()
