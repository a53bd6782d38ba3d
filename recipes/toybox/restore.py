"""Go on where the shipped model's training ended, on a machine without a work folder.

Writes `vae/final.pt`, `tokenizer/` and `unet/start.pt` of the work folder from
`svfit_diffusion/toybox/model/`, and `vae/start.pt`, from which the VAE can be trained on; files
that are there stay. Those weights are averages in half precision, so momentum starts anew.
Run: python recipes/toybox/restore.py
"""

from __future__ import annotations

import json
import shutil

import torch
from common import EXPORT, RECIPE, save_checkpoint, work_dir
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel

KINDS = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}


def weights(name: str) -> dict[str, torch.Tensor]:
    """The shipped weights of one component, in float32."""
    return KINDS[name].from_pretrained(EXPORT / name).float().state_dict()


def main() -> None:
    """Fill the gaps of the work folder."""
    work, known = work_dir(), json.loads((RECIPE / "export.json").read_text("utf-8"))
    if not (work / "tokenizer").is_dir():
        shutil.copytree(EXPORT / "tokenizer", work / "tokenizer")
    vae = weights("vae")
    if not (work / "vae" / "final.pt").is_file():
        save_checkpoint(work / "vae" / "final.pt", {"vae": vae})
    if not (work / "vae" / "start.pt").is_file():
        save_checkpoint(work / "vae" / "start.pt", vae)
    if not (work / "unet" / "start.pt").is_file():
        save_checkpoint(work / "unet" / "start.pt", {
            "unet": weights("unet"), "text": weights("text_encoder"),
            "step": known["steps"], "samples": known["samples"],
        })  # fmt: skip
    print(f"{work} holds what is needed to go on from step {known['steps']}")


if __name__ == "__main__":
    main()
