"""Train Toybox's VAE on composites of the training objects.

First on 64-px crops (many cheap steps), most of them around an object, then on whole pictures.
Loss: L1 at three scales + 2 MSE + a small L1 on gradients + KL x 1e-4 (all means per element). The
decoder sees latents with a little noise, as it will from a UNet. Resumes from `vae/last.pt` of
the work folder, or starts from `vae/start.pt`, whose weights may be those of a narrower VAE, or of
one with fewer latent channels: these stay near what they were (`--keep`), for a UNet knows them.
With `--decoder` the encoder stays as it is, and so do the latents that a UNet has learned.
Run: recipes/toybox/fast.sh recipes/toybox/train_vae.py --minutes 40 --bf16
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
import torch.nn.functional as F
from common import RESOLUTION, save_checkpoint, work_dir
from diffusers.training_utils import EMAModel
from fast_norm import quicken
from hogwild import run_workers
from muon import Optimizers
from objects import MORE, TRAIN
from vae_model import build_vae, load_vae, psnr, to_tensor, widened, with_more_channels
from world import STYLED, World

POOL, FRESH, CROP = 1000, 2, 64
UNNAMED = 0.35  # share of objects that have no name
HARD, HARD_SHARE = ("stripes", "dots", "sea"), 0.25  # kinds of the largest errors, drawn more often
POWER = 0.05  # weight of the latents' mean square being 1, so that they cannot outgrow the noise
KEEP = 0.05  # weight of the first latent channels' mean squared difference to those of before
AROUND = 0.75  # share of the crops that lie around an object


class PicturePool:
    """Rendered pictures, each used for several crops, steadily replaced by new ones."""

    def __init__(self, seed: int, styled: float) -> None:
        self.world, self.rng = World(TRAIN, MORE, UNNAMED), np.random.default_rng(seed)
        self.mix = 0.5, 1.0, styled
        self.pictures = np.zeros((POOL, RESOLUTION, RESOLUTION, 3), np.uint8)
        self.centres = np.zeros((POOL, 2))  # row, column of one object, px
        self.next = 0
        for _ in range(POOL):
            self.renew()

    def renew(self) -> None:
        sample = self.world.draw(self.rng, *self.mix)
        if self.rng.random() < HARD_SHARE:
            while sample.kind not in HARD:
                sample = self.world.draw(self.rng, *self.mix)
        sample.picture = self.world.render(self.rng, sample)
        thing = sample.things[int(self.rng.integers(len(sample.things)))]
        self.pictures[self.next] = sample.picture
        self.centres[self.next] = thing.row, thing.column
        self.next = (self.next + 1) % POOL

    def corner(self, index: int, crop: int) -> np.ndarray:
        """Row and column of a crop of a picture."""
        last = RESOLUTION - crop
        if self.rng.random() > AROUND:
            return self.rng.integers(0, last + 1, 2)
        corner = self.centres[index] - crop / 2 + self.rng.uniform(-20, 20, 2)
        return corner.clip(0, last).astype(int)

    def batch(self, size: int, crop: int) -> torch.Tensor:
        """(size, 3, crop, crop) in [-1, 1]."""
        for _ in range(FRESH):
            self.renew()
        chosen = self.rng.integers(0, POOL, size)
        corners = [self.corner(i, crop) for i in chosen]
        return to_tensor(np.stack([
            self.pictures[i, r : r + crop, c : c + crop]
            for i, (r, c) in zip(chosen, corners, strict=True)
        ]))  # fmt: skip


def error_of(y: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Loss of pictures y that should be x, and the mean absolute error."""
    error = y - x
    l1 = error.abs().mean()
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    coarse = sum(F.avg_pool2d(error, side).abs().mean() for side in (2, 4))
    return l1 + 2 * error.square().mean() + 0.25 * edges + 0.5 * coarse, float(l1.detach())


def loss_of(vae, x, noise: float, bf16: bool, before=None) -> tuple[torch.Tensor, float, float]:
    """Training loss, the mean absolute error, and how far the latents are from those of `before`.

    noise: largest deviation added to latents; before: a frozen VAE, whose latents the first
    channels should keep.
    """
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        posterior = vae.encode(x).latent_dist
        latents = posterior.sample()
        size = noise * torch.rand(len(x), 1, 1, 1, device=x.device)
        y = vae.decode(latents + size * torch.randn_like(latents)).sample.float()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    power = (posterior.mean.float().square().mean() - 1).square()
    error, l1 = error_of(y, x)
    drift = torch.zeros(())
    if before:
        with torch.no_grad(), torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            kept = before.encode(x).latent_dist.mode()
        drift = (posterior.mean[:, : kept.shape[1]].float() - kept.float()).square().mean()
    return error + 1e-4 * kl + POWER * power + KEEP * drift, l1, float(drift.detach())


def rate(done: float) -> float:
    """Share of the learning rate: 1 % warmup, cosine to a hundredth; done in 0..1."""
    return min(done / 0.01 + 0.02, 0.505 + 0.495 * math.cos(math.pi * min(done, 1)))


def checkpoint(path, vae, ema, optimizer, step, seconds) -> None:
    """Save everything needed to resume, and the averaged weights."""
    world = World()
    unseen = np.stack([world.sample(np.random.default_rng(9000 + i)).picture for i in range(32)])
    average = build_vae()
    average.load_state_dict(vae.state_dict())
    ema.copy_to(average.parameters())
    quality = psnr(average, unseen)
    print(f"  EMA PSNR on 32 unseen composites {quality.mean():.2f} dB, worst "
          f"{quality.min():.2f}, step {step}, {seconds:.0f} s", flush=True)  # fmt: skip
    save_checkpoint(path, {
        "vae": vae.state_dict(), "ema": average.state_dict(), "ema_state": ema.state_dict(),
        "optimizer": optimizer.state_dict(), "step": step, "seconds": seconds,
    })  # fmt: skip


def work(rank: int, alive, args, vae, counter, begin: float, state: dict | None) -> None:
    """One worker's loop; rank 0 keeps the average and the checkpoints."""
    torch.manual_seed(rank + int(counter))
    before = load_vae(work_dir() / "vae" / "before.pt") if args.keep else None
    quicken(*filter(None, (vae, before)))
    path, budget = work_dir() / args.name / "last.pt", args.minutes * 60
    if args.decoder:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    optimizer = Optimizers([vae], args.lr, args.muon_lr, ("conv_in", "conv_out", "quant_conv"))
    ema = EMAModel(vae.parameters(), decay=0.99)
    if state:
        ema.load_state_dict(state["ema_state"])
        optimizer.load_state_dict(state["optimizer"])
    pool = PicturePool(2 * int(counter) + rank, args.styled)
    end = min(budget, 60 * args.stop_minutes or budget)
    saved, mean, step = time.time() - begin, None, 0
    while (spent := time.time() - begin) < end and alive():
        whole = spent / budget > 1 - args.whole
        x = pool.batch(2 if whole else 8, RESOLUTION if whole else CROP)
        loss, l1, drift = loss_of(vae, x, args.noise, args.bf16, before)
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
            print(f"step {int(counter)} {spent:.0f} s L1 {mean:.4f} drift {drift:.4f}", flush=True)
        if rank == 0 and spent - saved > 240:
            checkpoint(path, vae, ema, optimizer, int(counter), spent)
            saved = spent
    if rank == 0:
        checkpoint(path, vae, ema, optimizer, int(counter), spent)


def main() -> None:
    """Train for a number of minutes (counted over all runs)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--stop-minutes", type=float, default=0, help="stop before the end")
    parser.add_argument("--lr", type=float, default=2e-3, help="AdamW")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--whole", type=float, default=0.25, help="last share on whole pictures")
    parser.add_argument("--noise", type=float, default=0.15, help="largest, on latents")
    parser.add_argument(
        "--keep", action="store_true",
        help="the first latent channels stay near those of the VAE in vae/before.pt",
    )  # fmt: skip
    parser.add_argument("--decoder", action="store_true", help="train the decoder alone")
    parser.add_argument("--styled", type=float, default=STYLED, help="share of sketches and such")
    parser.add_argument("--bf16", action="store_true", help="faster with AVX512-BF16 or AMX")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="vae", help="folder of the run in the work folder")
    args = parser.parse_args()
    torch.manual_seed(0)
    folder, vae, state = work_dir() / args.name, build_vae(), None
    if (folder / "last.pt").is_file():
        state = torch.load(folder / "last.pt", weights_only=True)
        vae.load_state_dict(state["vae"])
    elif (folder / "start.pt").is_file():
        start = torch.load(folder / "start.pt", weights_only=True)
        vae.load_state_dict((with_more_channels if args.keep else widened)(start, vae))
    counter = torch.tensor(state["step"] if state else 0).share_memory_()
    begin = time.time() - (state["seconds"] if state else 0)
    run_workers(work, args.workers, args, vae.share_memory(), counter, begin, state)


if __name__ == "__main__":
    main()
