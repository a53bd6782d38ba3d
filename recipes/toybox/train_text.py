"""Pretrain Toybox's text encoder: from a caption alone, predict the picture.

As CLIP's text encoder has met pictures before it serves a diffusion model, so has ours. Its last
16 states, which are padding in all but the longest captions, each regress one region of the
captioned picture's latent (4 x 4 regions); the very last one also regresses the latents of the
named objects' reference renders. What a caption does not tell is averaged out, so look-alikes lie
close together, and a class word in the middle of its class. The heads are thrown away.
Run: recipes/toybox/fast.sh recipes/toybox/train_text.py --minutes 8
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from common import LATENT_CHANNELS, LATENT_SIZE, save_checkpoint, work_dir
from hogwild import run_workers
from latents import LatentPool
from muon import Optimizers
from text_model import REGISTERS, WIDTH, build_text_encoder, load_tokenizer
from torch import nn

WARMUP = 50  # steps
PICTURE = LATENT_CHANNELS * LATENT_SIZE**2


class Heads(nn.Module):
    """One state (..., 192) -> a region (..., 256); the last state -> both objects (..., 8192)."""

    def __init__(self) -> None:
        super().__init__()
        self.region = nn.Linear(WIDTH, PICTURE // REGISTERS)
        self.objects = nn.Sequential(
            nn.Linear(WIDTH, 768), nn.GELU(), nn.Linear(768, 2 * PICTURE)
        )  # fmt: skip


def regions(latents: torch.Tensor) -> torch.Tensor:
    """(batch, 16, 16, 16) -> (batch, 16, 256): the 4 x 4 regions, row by row."""
    parts = latents.unflatten(2, (4, 4)).unflatten(4, (4, 4))  # batch, 16, row, y, column, x
    return parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def references(pool: LatentPool) -> torch.Tensor:
    """Latents of all reference renders, and zeros for no object: (objects + 1, 4096)."""
    pictures = [pool.world.reference(item) for item in pool.world.objects]
    parts = [pool.encode(pictures[i : i + 32]).flatten(1) for i in range(0, len(pictures), 32)]
    return torch.cat([*parts, torch.zeros(1, PICTURE)])


def work(rank: int, alive, args, text, heads, counter) -> None:
    """One worker's loop; rank 0 writes the result."""
    torch.manual_seed(rank)
    tokenizer = load_tokenizer()
    optimizer = Optimizers(
        [text, heads], args.lr, args.muon_lr, ("embeddings", "region", "2.weight")
    )
    pool = LatentPool(args.objects, 500 + rank, rank, args.pool_start,
                      (args.simple, args.variety))  # fmt: skip
    known = references(pool)
    begin, mine, mean, seconds = time.time(), 0, None, args.minutes * 60
    while (spent := time.time() - begin) < seconds and alive():
        chosen = pool.rng.integers(0, len(pool.captions), args.batch)
        ids = tokenizer([pool.captions[i] for i in chosen], padding="max_length", truncation=True,
                        return_tensors="pt").input_ids  # fmt: skip
        states = text(ids).last_hidden_state
        if mine < args.heads_first:
            states = states.detach()
        places = torch.from_numpy(chosen)
        picture = F.mse_loss(heads.region(states[:, -REGISTERS:]), regions(pool.latents[places]))
        objects = F.mse_loss(heads.objects(states[:, -1]), known[pool.things[places]].flatten(1))
        (picture + objects).backward()
        optimizer.step(min((mine + 1) / WARMUP, 1.2 * (1 - spent / seconds), 1))
        counter += 1
        mine += 1
        losses = torch.stack([picture, objects]).detach()
        mean = losses if mean is None else 0.98 * mean + 0.02 * losses
        if rank == 0 and mine % 50 == 0:
            print(f"step {int(counter)} {spent:.0f} s picture {mean[0]:.4f} objects {mean[1]:.4f}",
                  flush=True)  # fmt: skip
        if mine % 25 == 0 and len(pool.captions) < args.pool_start * 2:
            pool.add(32)
    pool.save()
    if rank == 0:
        start = work_dir() / "unet" / "start.pt"
        state = torch.load(start, weights_only=True) if start.is_file() else {}
        if "text" in state:
            state["before"] = state["text"]  # for carry_over.py
        save_checkpoint(start, {"step": 0, "samples": 0, **state, "text": text.state_dict()})


def main() -> None:
    """Parse, go on from `unet/start.pt` if it is there, train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--batch", type=int, default=32, help="of each worker")
    parser.add_argument("--lr", type=float, default=1e-3, help="AdamW")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--objects", type=int, default=163, help="how many training objects")
    parser.add_argument("--pool-start", type=int, default=2500, help="latents, of each worker")
    parser.add_argument(
        "--simple", type=float, default=0.75, help="share of single, centred things"
    )
    parser.add_argument("--variety", type=float, default=0.0, help="of their pose, 0 to 1")
    parser.add_argument(
        "--heads-first", type=int, default=0,
        help="steps of each worker that leave the text encoder: to go on from a trained one",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    text, heads = build_text_encoder(load_tokenizer()), Heads()
    start = work_dir() / "unet" / "start.pt"
    if start.is_file():
        text.load_state_dict(torch.load(start, weights_only=True)["text"])
    counter = torch.tensor(0).share_memory_()
    run_workers(work, args.workers, args, text.share_memory(), heads.share_memory(), counter)


if __name__ == "__main__":
    main()
