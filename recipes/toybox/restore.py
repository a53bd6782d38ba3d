"""Go on where the last training ended, on a machine without a work folder: VAE, tokenizer, weights.

Writes `vae/final.pt`, `tokenizer/` and `unet/start.pt` of the work folder from `weights/` beside
this file where it is, else from `svfit_diffusion/toybox/model/`, and `vae/start.pt`, from which
the VAE can be trained on; files that are there stay. Those weights are averages in half precision,
so momentum starts anew.
Run: python recipes/toybox/restore.py
"""

from __future__ import annotations

import json
import shutil

import torch
from common import EXPORT, RECIPE, save_checkpoint, work_dir
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel

KINDS = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}


def weights(name: str) -> dict[str, torch.Tensor]:
    """The latest weights of one component, in float32."""
    path = RECIPE / "weights" / f"{name}.safetensors"
    if path.is_file():
        return {key: value.float() for key, value in load_file(path).items()}
    return KINDS[name].from_pretrained(EXPORT / name).float().state_dict()


def facts() -> dict:
    """Steps and samples of the latest weights."""
    path = RECIPE / "weights" / "facts.json"
    path = path if path.is_file() else RECIPE / "export.json"
    return json.loads(path.read_text("utf-8"))


def main() -> None:
    """Fill the gaps of the work folder."""
    work, known = work_dir(), facts()
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
