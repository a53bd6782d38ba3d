"""Train Toybox's UNet and text encoder together, from scratch, on latents of the frozen VAE.

v-prediction with zero terminal SNR; 10 % empty captions. The learning rate warms up, then stays;
`--decay-minutes` takes the stable state down to zero and writes `decayed.pt` beside `stable.pt`,
so that a longer run can go on from the stable state.
Run: recipes/toybox/fast.sh recipes/toybox/train_unet.py --minutes 60
     recipes/toybox/fast.sh recipes/toybox/train_unet.py --decay-minutes 10
"""

from __future__ import annotations

import argparse
import math
import time

import torch
import torch.nn.functional as F
from common import save_checkpoint, work_dir
from diffusers.training_utils import EMAModel
from hogwild import run_workers
from latents import LatentPool
from muon import Optimizers
from text_model import build_text_encoder, load_tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from unet_model import build_scheduler, build_unet

WARMUP, EMA_EVERY, EMPTY = 200, 4, 0.1
ENDS = ("conv_in", "conv_out", "time_embedding", "embeddings")


class Trainer:
    """One worker's view: the shared models, its own optimizer, the average and the counters."""

    def __init__(self, args, unet, text, counter: torch.Tensor, state: dict | None) -> None:
        self.args, self.unet, self.text, self.counter = args, unet, text, counter
        self.tokenizer = load_tokenizer()
        self.weights = [*unet.parameters(), *text.parameters()]
        self.optimizer = Optimizers([unet, text], args.lr, args.muon_lr, ENDS)
        self.ema = EMAModel(self.weights, decay=0.99)
        self.alphas = build_scheduler().alphas_cumprod
        if state:
            self.optimizer.load_state_dict(state["optimizer"])
            self.ema.load_state_dict(state["ema"])
            torch.set_rng_state(state["rng"])

    @property
    def step(self) -> int:
        return int(self.counter)

    def save(self, path) -> None:
        """Write models, average, optimizer and random state in one file."""
        unet, text = build_unet(), build_text_encoder(self.tokenizer)
        self.ema.copy_to([*unet.parameters(), *text.parameters()])
        save_checkpoint(path, {
            "unet": self.unet.state_dict(), "text": self.text.state_dict(),
            "ema_unet": unet.state_dict(), "ema_text": text.state_dict(),
            "ema": self.ema.state_dict(), "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(), "step": self.step,
            "samples": self.step * self.args.batch, "objects": self.args.objects,
            "optimizer_rates": [self.args.lr, self.args.muon_lr],
        })  # fmt: skip

    def loss(self, latents: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """Mean squared error of v on (batch, 8, 16, 16) latents, times spread over the schedule."""
        size = len(captions)
        captions = ["" if torch.rand(()) < EMPTY else words for words in captions]
        ids = self.tokenizer(captions, padding="max_length", truncation=True,
                             return_tensors="pt").input_ids  # fmt: skip
        times = ((torch.arange(size) + torch.rand(size)) / size * 1000).long().clamp(0, 999)
        signal = self.alphas[times].sqrt()[:, None, None, None]
        noise_share = (1 - self.alphas[times]).sqrt()[:, None, None, None]
        noise = torch.randn_like(latents)
        noisy = signal * latents + noise_share * noise
        target = signal * noise - noise_share * latents
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        half = torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16)
        with sdpa_kernel(SDPBackend.MATH), half:
            words = self.text(ids).last_hidden_state
            guess = self.unet(noisy, times, words).sample
        return F.mse_loss(guess.float(), target)

    def update(self, latents: torch.Tensor, captions: list[str], rate: float) -> float:
        """One optimizer step at `rate` (0..1) of the full learning rate; returns the loss."""
        loss = self.loss(latents, captions)
        loss.backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(f"The loss is not finite at step {self.step}; lower the rates.")
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step(rate)
        self.counter += 1
        return value


def work(rank: int, alive, args, unet, text, counter, state: dict | None) -> None:
    """One worker's loop; rank 0 keeps the average and the checkpoints."""
    torch.manual_seed(args.seed + rank)
    trainer = Trainer(args, unet, text, counter, state)
    if rank:
        torch.manual_seed(args.seed + rank + trainer.step)
    decay = args.decay_minutes > 0
    target = work_dir() / args.name / ("decayed.pt" if decay else "stable.pt")
    pool = LatentPool(args.objects, seed=1000 + 2 * trainer.step + rank, start=args.pool_start)
    seconds = 60 * (args.decay_minutes if decay else args.minutes)
    begin = saved = time.time()
    mean, first, mine = None, trainer.step, 0
    while (spent := time.time() - begin) < seconds and trainer.step < args.until_step and alive():
        rate = max(1 - spent / seconds, 0.01) if decay else min(1, (trainer.step + 1) / WARMUP)
        value = trainer.update(*pool.batch(args.batch), rate)
        mean, mine = value if mean is None else 0.98 * mean + 0.02 * value, mine + 1
        if rank:
            continue
        if mine % EMA_EVERY == 0:
            trainer.ema.step(trainer.weights)
        if mine % 25 == 0:
            speed = (trainer.step - first) * args.batch / (time.time() - begin)
            print(f"step {trainer.step} {spent:.0f} s loss {mean:.4f} {speed:.0f} samples/s "
                  f"pool {len(pool.captions)}", flush=True)  # fmt: skip
        if time.time() - saved > 300:
            trainer.save(target)
            saved = time.time()
    if rank == 0:
        trainer.save(target)


def main() -> None:
    """Parse, resume, train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--decay-minutes", type=float, default=0)
    parser.add_argument("--until-step", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=32, help="of each worker")
    parser.add_argument("--lr", type=float, default=1e-3, help="AdamW")
    parser.add_argument("--muon-lr", type=float, default=0.02, help="0: AdamW for everything")
    parser.add_argument("--objects", type=int, default=64, help="how many training objects")
    parser.add_argument("--pool-start", type=int, default=1500, help="latents, of each worker")
    parser.add_argument("--bf16", action="store_true", help="faster where the CPU has AMX")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="unet", help="folder of the run in the work folder")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    path = work_dir() / args.name / "stable.pt"
    path.parent.mkdir(exist_ok=True)
    unet, text, state = build_unet(), build_text_encoder(load_tokenizer()), None
    if path.is_file():
        state = torch.load(path, weights_only=True)
        unet.load_state_dict(state["unet"])
        text.load_state_dict(state["text"])
        print(f"resumed at step {state['step']}", flush=True)
    counter = torch.tensor(state["step"] if state else 0).share_memory_()
    run_workers(work, args.workers, args, unet.share_memory(), text.share_memory(), counter, state)


if __name__ == "__main__":
    main()
