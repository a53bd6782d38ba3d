"""Let a trained UNet read a text encoder that was trained on after it.

The states of the new encoder tell more, but otherwise than those that the UNet learned to read. A
linear map from new states to old ones, by ridge regression over captions, is put before the keys
and values of every cross-attention; training then takes it from there.
Takes and writes `unet/start.pt`, where train_text.py left the encoder of `before`.
Run: python recipes/toybox/carry_over.py
"""

from __future__ import annotations

import numpy as np
import torch
from captions import caption
from common import save_start, work_dir
from registers import ridge
from text_model import build_text_encoder, load_tokenizer
from unet_model import unet_of
from world import World

RIDGE = 1e-3  # of the features' mean square
CAPTIONS, BATCH = 3_000, 200


@torch.no_grad()
def states(weights: dict, captions: list[str]) -> torch.Tensor:
    """All states of a text encoder, float64: (captions x length, width)."""
    tokenizer = load_tokenizer()
    text = build_text_encoder(tokenizer)
    text.load_state_dict(weights)
    ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    found = [text(part).last_hidden_state for part in ids.split(BATCH)]
    return torch.cat(found).flatten(0, 1).double()


def main() -> None:
    """Fit the map and fold it into the UNet."""
    path = work_dir() / "unet" / "start.pt"
    state = torch.load(path, weights_only=True)
    if "before" not in state:
        raise ValueError(f"{path} holds no encoder from before; run train_text.py on it first.")
    rng, world = np.random.default_rng(9), World()
    captions = [caption(rng, world.draw(rng, 0.5, 0.0)) for _ in range(CAPTIONS)]
    captions += [""] * (CAPTIONS // 100)
    new, old = states(state["text"], captions), states(state.pop("before"), captions)
    found = ridge(new, old, RIDGE)
    left = (new @ found - old).square().mean() / (old - old.mean(0)).square().mean()
    print(f"of the old states, the new ones tell {1 - left:.3f}")
    unet = unet_of(state["unet"])
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            for layer in (module.to_k, module.to_v):
                layer.weight.data = (layer.weight.double() @ found.T).float()
    state["unet"] = unet.state_dict()
    save_start(state)


if __name__ == "__main__":
    main()
