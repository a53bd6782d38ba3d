"""Go on from the shipped model on a machine that has no work folder: VAE, tokenizer, weights.

Writes `vae/final.pt`, `tokenizer/` and `unet/start.pt` of the work folder from
`svfit_diffusion/toybox/model/`; files that are there already stay. The shipped weights are
averages in half precision, so momentum starts anew. Where the networks have grown since they
were shipped, the new parts start such that they change little. The text encoder has changed its
form since then and starts anew: train_text.py comes next, then registers.py.
Run: python recipes/toybox/restore.py
"""

from __future__ import annotations

import json
import shutil

import torch
from common import EXPORT, RECIPE, save_checkpoint, work_dir
from safetensors.torch import load_file
from text_model import build_text_encoder, load_tokenizer
from unet_model import build_unet


def weights(folder: str, name: str) -> dict:
    """The shipped tensors of one component, in float32."""
    tensors = load_file(EXPORT / folder / f"{name}.safetensors")
    return {key: value.float() for key, value in tensors.items()}


def grown(model: torch.nn.Module, shipped: dict) -> dict:
    """The model's state with the shipped tensors in it, also where the model's are longer.

    A time projection that was a shift becomes scale and shift: the scale starts near zero and the
    shift at half, since it now follows the norm. More positions start like the last ones.
    """
    state = model.state_dict()
    for name, new in state.items():
        old = shipped.get(name)
        if old is None or old.shape == new.shape:
            state[name] = new if old is None else old
        elif "time_emb_proj" in name and len(new) == 2 * len(old):
            state[name] = torch.cat([0.1 * new[: len(old)] * (new.ndim > 1), 0.5 * old])
        elif "position_embedding" in name and len(new) > len(old):
            more = len(new) - len(old)
            state[name] = torch.cat([old, old[-more:] + 0.01 * torch.randn_like(old[-more:])])
        else:
            raise ValueError(f"{name} was shipped as {tuple(old.shape)}, not {tuple(new.shape)}.")
    return state


def main() -> None:
    """Fill the gaps of the work folder."""
    torch.manual_seed(0)
    work, facts = work_dir(), json.loads((RECIPE / "export.json").read_text("utf-8"))
    if not (work / "tokenizer").is_dir():
        shutil.copytree(EXPORT / "tokenizer", work / "tokenizer")
    if not (work / "vae" / "final.pt").is_file():
        vae = weights("vae", "diffusion_pytorch_model")
        save_checkpoint(work / "vae" / "final.pt", {"vae": vae})
    if not (work / "unet" / "start.pt").is_file():
        save_checkpoint(work / "unet" / "start.pt", {
            "unet": grown(build_unet(), weights("unet", "diffusion_pytorch_model")),
            "text": build_text_encoder(load_tokenizer()).state_dict(),
            "step": facts["steps"], "samples": facts["samples"],
        })  # fmt: skip
    print(f"{work} holds what is needed to go on from step {facts['steps']}")


if __name__ == "__main__":
    main()
