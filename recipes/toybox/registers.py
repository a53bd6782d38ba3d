"""Point two heads of every cross-attention at the text state that predicts their region.

The text encoder's last states each predict one of 4 x 4 regions (train_text.py). A UNet finds
out which of them belongs to which of its positions, but slowly; here heads 0 and 1 of each
cross-attention are set to it. Both the position of a query and the place of a register are read
off their features by ridge regression onto one-hot regions; the heads' query and key weights
become these two linear maps, so that their product is high where the regions agree. What the
heads hand on are the principal components of the predicted regions, half of them each; their
outputs start silent.
Takes the UNet and the text encoder of `unet/start.pt`, or the average of a UNet that was trained
since then (`unet/stable.pt`), and writes them, so changed, as `unet/start.pt`.
Run: python recipes/toybox/registers.py
"""

from __future__ import annotations

import torch
from common import save_start, work_dir
from latents import LatentPool
from text_model import REGISTERS, build_text_encoder, load_tokenizer
from train_text import regions
from unet_model import build_scheduler, unet_of

LOGIT = 6.0  # score of the right register over the others: about nine tenths of the attention
RIDGE = 0.02  # of the features' mean square


def ridge(x: torch.Tensor, wanted: torch.Tensor, share: float) -> torch.Tensor:
    """The map (width, wide) from features (n, width) to wanted ones (n, wide), float64.

    share: of the features' mean square, which is added to it.
    """
    gram = x.T @ x / len(x)
    gram += share * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram, x.T @ wanted / len(x))


def probe(features: torch.Tensor, regions: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Map (width, 16) from features (n, width) to one-hot regions (n; -1 is none), its accuracy."""
    wanted = torch.zeros(len(features), REGISTERS, dtype=torch.float64)
    known = regions >= 0
    wanted[known, regions[known]] = 1
    x = features.double()
    found = ridge(x, wanted, RIDGE)
    right = (x[known] @ found).argmax(1) == regions[known]
    return found.float(), float(right.double().mean())


@torch.no_grad()
def seen(unet, states: torch.Tensor, latents: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cross-attention name -> its queries' features (batch, positions, width), at noisy times."""
    found, hooks = {}, []
    for name, module in unet.named_modules():
        if name.endswith("attn2"):

            def keep(_, inputs, __, name=name):
                found[name] = inputs[0]

            hooks.append(module.register_forward_hook(keep, with_kwargs=False))
    alphas = build_scheduler().alphas_cumprod
    times = torch.randint(300, 1000, (len(latents),))
    share = alphas[times][:, None, None, None]
    noisy = share.sqrt() * latents + (1 - share).sqrt() * torch.randn_like(latents)
    unet(noisy, times, states)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def predicted(states: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """Map (width, 128) from a register's state to the principal components of its region.

    Components come strongest first and vary by 1.
    """
    registers = states[:, -REGISTERS:].flatten(0, 1).double()
    wanted = regions(latents).flatten(0, 1).double()
    x = registers - registers.mean(0)
    found = ridge(x, wanted - wanted.mean(0), RIDGE)
    spread, axes = torch.linalg.eigh((x @ found).T @ (x @ found) / len(x))
    scale = spread.flip(0).clamp_min(1e-6).rsqrt()
    return (found @ axes.flip(1) * scale).float()


@torch.no_grad()
def point(module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    """Set heads 0 and 1; query (width, 16), key (text width, 16), value (text width, 128)."""
    head = module.to_q.out_features // module.heads
    scale = (LOGIT * head**0.5) ** 0.5
    for start in (0, head):
        for layer, found in ((module.to_q, query), (module.to_k, key)):
            layer.weight[start : start + head] = 0
            layer.weight[start : start + REGISTERS] = scale * found.T
    module.to_v.weight[: 2 * head] = value[:, : 2 * head].T
    module.to_out[0].weight[:, : 2 * head] = 0


def main() -> None:
    """Probe and set every cross-attention."""
    torch.manual_seed(0)
    folder = work_dir() / "unet"
    tokenizer = load_tokenizer()
    text = build_text_encoder(tokenizer)
    state = torch.load(folder / "start.pt", weights_only=True)
    text.load_state_dict(state["text"])
    if (folder / "stable.pt").is_file():
        state = torch.load(folder / "stable.pt", weights_only=True)
    unet = unet_of(state.get("ema_unet", state.get("unet")))
    latents, captions = LatentPool(163, 1, 0, 600, (0.75, 0.0)).batch(600)
    ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        states = text(ids).last_hidden_state
    places = torch.full(ids.shape, -1)
    places[:, -REGISTERS:] = torch.arange(REGISTERS)
    key, right = probe(states.flatten(0, 1), places.flatten())
    value = predicted(states, latents)
    print(f"registers told apart: {right:.3f}")
    for name, features in seen(unet, states, latents).items():
        side = int(features.shape[1] ** 0.5)
        row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        regions = (row * 4 // side * 4 + column * 4 // side).flatten().repeat(len(features))
        query, right = probe(features.flatten(0, 1), regions)
        print(f"{name}: positions told apart: {right:.3f}")
        point(unet.get_submodule(name), query, key, value)
    save_start({
        "unet": unet.state_dict(), "text": text.state_dict(),
        "step": state["step"], "samples": state["samples"],
    })  # fmt: skip


if __name__ == "__main__":
    main()
