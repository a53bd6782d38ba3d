"""Train Toybox's VAE on composites of the training objects.

First on 64-px crops (many cheap steps), then on whole pictures. Loss: L1 + 2 MSE + a small L1
on gradients + KL x 1e-4 (all means per element). Resumes from `<work>/vae/last.pt`.
Run: recipes/toybox/fast.sh recipes/toybox/train_vae.py --minutes 25
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from common import RESOLUTION, save_checkpoint, work_dir
from diffusers.training_utils import EMAModel
from hogwild import run_workers
from muon import Optimizers
from vae_model import build_vae, psnr, to_tensor
from world import World

POOL, FRESH, CROP = 1000, 2, 64


class PicturePool:
    """Rendered pictures, each used for several crops, steadily replaced by new ones."""

    def __init__(self, seed: int) -> None:
        self.world, self.rng = World(), np.random.default_rng(seed)
        self.pictures = np.stack([self.fresh() for _ in range(POOL)])
        self.next = 0

    def fresh(self) -> np.ndarray:
        return self.world.sample(self.rng, simple=0.5).picture

    def batch(self, size: int, crop: int) -> torch.Tensor:
        """(size, 3, crop, crop) in [-1, 1]."""
        for _ in range(FRESH):
            self.pictures[self.next] = self.fresh()
            self.next = (self.next + 1) % POOL
        corners = self.rng.integers(0, RESOLUTION - crop + 1, (size, 2))
        chosen = self.rng.integers(0, POOL, size)
        return to_tensor(np.stack([
            self.pictures[i, r : r + crop, c : c + crop]
            for i, (r, c) in zip(chosen, corners, strict=True)
        ]))  # fmt: skip


def loss_of(vae, x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Training loss and the mean absolute error."""
    posterior = vae.encode(x).latent_dist
    error = vae.decode(posterior.sample()).sample - x
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    l1 = error.abs().mean()
    return l1 + 2 * error.square().mean() + 0.25 * edges + 1e-4 * kl, float(l1.detach())


def rate(done: float) -> float:
    """Share of the learning rate: 1 % warmup, cosine to a hundredth; done in 0..1."""
    return min(done / 0.01 + 0.02, 0.505 + 0.495 * math.cos(math.pi * min(done, 1)))


def checkpoint(path, vae, ema, optimizer, step, seconds) -> None:
    """Save everything needed to resume, and the averaged weights."""
    unseen = np.stack([World().sample(np.random.default_rng(9000 + i)).picture for i in range(32)])
    average = build_vae()
    average.load_state_dict(vae.state_dict())
    ema.copy_to(average.parameters())
    print(f"  EMA PSNR on 32 unseen composites {psnr(average, unseen).mean():.2f} dB", flush=True)
    save_checkpoint(path, {
        "vae": vae.state_dict(), "ema": average.state_dict(), "ema_state": ema.state_dict(),
        "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds,
    })  # fmt: skip


def work(rank: int, alive, args, vae, counter, begin: float, state: dict | None) -> None:
    """One worker's loop; rank 0 keeps the average and the checkpoints."""
    torch.manual_seed(rank)
    path, budget = work_dir() / "vae" / "last.pt", args.minutes * 60
    optimizer = Optimizers([vae], args.lr, args.muon_lr, ("conv_in", "conv_out", "quant_conv"))
    ema = EMAModel(vae.parameters(), decay=0.99)
    if state:
        ema.load_state_dict(state["ema_state"])
        optimizer.load_state_dict(state["optimizer"])
    pool = PicturePool(seed=2 * int(counter) + rank)
    saved, mean, step = time.time() - begin, None, 0
    while (spent := time.time() - begin) < budget and alive():
        whole = spent / budget > 1 - args.whole
        loss, l1 = loss_of(vae, pool.batch(2 if whole else 5, RESOLUTION if whole else CROP))
        if not math.isfinite(l1):
            raise ValueError("The VAE's loss is not finite; resume with lower rates.")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step(rate(spent / budget))
        counter += 1
        step += 1
        mean = l1 if mean is None else 0.98 * mean + 0.02 * l1
        if rank == 0 and step % 8 == 0:
            ema.step(vae.parameters())
        if rank == 0 and step % 100 == 0:
            print(f"step {int(counter)} {spent:.0f} s L1 {mean:.4f}", flush=True)
        if rank == 0 and spent - saved > 240:
            checkpoint(path, vae, ema, optimizer, int(counter), spent)
            saved = spent
    if rank == 0:
        checkpoint(path, vae, ema, optimizer, int(counter), spent)


def main() -> None:
    """Train for a number of minutes (counted over all runs)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--lr", type=float, default=2e-3, help="AdamW")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--whole", type=float, default=0.25, help="last share on whole pictures")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    path, vae, state = work_dir() / "vae" / "last.pt", build_vae(), None
    if path.is_file():
        state = torch.load(path, weights_only=True)
        vae.load_state_dict(state["vae"])
    counter = torch.tensor(state["step"] if state else 0).share_memory_()
    begin = time.time() - (state["seconds"] if state else 0)
    run_workers(work, args.workers, args, vae.share_memory(), counter, begin, state)


if __name__ == "__main__":
    main()
