"""Train Toybox's UNet on latents of the frozen VAE.

The text encoder stays as train_text.py left it, unless `--text-rate` is given: what its registers
predict is then a fixed map, which the UNet learns to read.

v-prediction with zero terminal SNR; 10 % empty captions. The learning rate warms up, then stays;
`--decay-minutes` takes the stable state down to zero and writes `decayed.pt` beside `stable.pt`,
so that a longer run can go on from the stable state.
Run: recipes/toybox/fast.sh recipes/toybox/train_unet.py --minutes 60
     recipes/toybox/fast.sh recipes/toybox/train_unet.py --decay-minutes 10
"""

from __future__ import annotations

import argparse
import contextlib
import math
import signal
import time

import torch
from common import save_checkpoint, work_dir
from diffusers.training_utils import EMAModel
from fast_norm import quicken
from hogwild import run_workers
from latents import LatentPool
from muon import Optimizers
from picture_metric import picture_metric
from text_model import build_text_encoder, load_tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel
from unet_model import LAYERS, build_scheduler, build_unet, carried_over, layers_of
from vae_model import load_vae
from world import PAIRS, STYLED

WARMUP, EMA_EVERY, EMPTY = 100, 4, 0.1
ENDS = ("conv_in", "conv_out", "time_embedding", "embeddings")
TIMES = 1000


class Trainer:
    """One worker's view: the shared models, its own optimizer, the average and the counters."""

    def __init__(self, args, unet, text, counter: torch.Tensor, state: dict | None) -> None:
        self.args, self.unet, self.text, self.counter = args, unet, text, counter
        self.device = torch.device(args.device)
        self.tokenizer = load_tokenizer()
        self.weights = [*unet.parameters(), *text.parameters()]
        text.requires_grad_(args.text_rate > 0)
        self.optimizers = [Optimizers([unet], args.lr, args.muon_lr, ENDS)]
        if args.text_rate:
            rates = args.text_rate * args.lr, args.text_rate * args.muon_lr
            self.optimizers.append(Optimizers([text], *rates, ENDS))
        self.ema = EMAModel(self.weights, decay=0.99)
        self.alphas = build_scheduler().alphas_cumprod.to(self.device)
        self.metric = picture_metric(load_vae()).to(self.device)
        self.first = state["step"] if state else 0
        self.seen = state["samples"] if state else 0
        if state and "optimizer" in state:
            for optimizer, kept in zip(self.optimizers, state["optimizer"], strict=False):
                optimizer.load_state_dict(kept)
            self.ema.load_state_dict(state["ema"])
            self.ema.to(self.device)
            torch.set_rng_state(state["rng"])

    @property
    def step(self) -> int:
        return int(self.counter)

    def save(self, path) -> None:
        """Write models, average, optimizer and random state in one file."""
        unet = build_unet(layers=layers_of(self.unet.state_dict()))
        text = build_text_encoder(self.tokenizer)
        self.ema.copy_to([*unet.to(self.device).parameters(), *text.to(self.device).parameters()])
        save_checkpoint(path, {
            "unet": self.unet.state_dict(), "text": self.text.state_dict(),
            "ema_unet": unet.state_dict(), "ema_text": text.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": torch.get_rng_state(), "step": self.step,
            "samples": self.seen + (self.step - self.first) * self.args.batch,
            "objects": self.args.objects,
            "optimizer_rates": [self.args.lr, self.args.muon_lr],
        })  # fmt: skip

    def loss(self, latents: torch.Tensor, captions: list[str]) -> torch.Tensor:
        """Mean squared error of v on (batch, 16, 16, 16) latents, each at two times, as the picture
        feels it.

        One time is of the whole schedule, the other of `--second-times`; both are spread evenly.
        """
        size = len(captions)
        captions = ["" if torch.rand(()) < EMPTY else words for words in captions]
        ids = self.tokenizer(captions, padding="max_length", truncation=True,
                             return_tensors="pt").input_ids.to(self.device)  # fmt: skip
        spread = (torch.arange(size) + torch.rand(2, size)) / size
        first, last = self.args.second_times
        spread[1] = first / TIMES + spread[1] * (last - first) / TIMES
        times = torch.cat([part[torch.randperm(size)] for part in spread])
        times = (times * TIMES).long().clamp(0, TIMES - 1).to(self.device)
        latents = latents.to(self.device).repeat(2, 1, 1, 1)
        latent_share = self.alphas[times].sqrt()[:, None, None, None]
        noise_share = (1 - self.alphas[times]).sqrt()[:, None, None, None]
        noise = torch.randn_like(latents)
        noisy = latent_share * latents + noise_share * noise
        target = latent_share * noise - noise_share * latents
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=self.args.bf16)
        cpu = self.device.type == "cpu"  # where the fused kernel's backward pass is slower
        with half, sdpa_kernel(SDPBackend.MATH) if cpu else contextlib.nullcontext():
            words = self.text(ids).last_hidden_state.repeat(2, 1, 1)
            guess = self.unet(noisy, times, words).sample
        error = torch.einsum("dc,nchw->ndhw", self.metric, guess.float() - target)
        return error.square().mean()

    def update(self, latents: torch.Tensor, captions: list[str], rate: float) -> float:
        """One optimizer step at `rate` (0..1) of the full learning rate; returns the loss."""
        loss = self.loss(latents, captions)
        loss.backward()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(f"The loss is not finite at step {self.step}; lower the rates.")
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimizer in self.optimizers:
            optimizer.step(rate)
        self.counter += 1
        return value


def work(rank: int, alive, args, unet, text, counter, state: dict | None) -> None:
    """One worker's loop; rank 0 keeps the average and the checkpoints."""
    torch.manual_seed(args.seed + rank)
    trainer = Trainer(args, unet, text, counter, state)
    if args.device == "cpu":
        quicken(unet)
    if rank:
        torch.manual_seed(args.seed + rank + trainer.step)
    decay = args.decay_minutes > 0
    target = work_dir() / args.name / ("decayed.pt" if decay else "stable.pt")
    asked: list[int] = []  # to stop, by a signal
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    pool = LatentPool(args.objects, 1000 + 2 * trainer.step + rank, rank, args.pool_start,
                      (args.simple, args.variety, args.styled, args.pairs), args.device,
                      args.renderers, args.unnamed)  # fmt: skip
    seconds = 60 * (args.decay_minutes if decay else args.minutes)
    begin = saved = time.time()
    mean, mine = None, 0
    while (spent := time.time() - begin) < seconds and trainer.step < args.until_step and alive():
        if asked:
            break
        rate = min(1, (trainer.step - trainer.first + 1) / WARMUP)
        if decay:
            rate = min(rate, max(1 - spent / seconds, 0.01))
        value = trainer.update(*pool.batch(args.batch // 2), rate)
        mean, mine = value if mean is None else 0.98 * mean + 0.02 * value, mine + 1
        if rank:
            continue
        if mine % EMA_EVERY == 0:
            trainer.ema.step(trainer.weights)
        if mine % 25 == 0:
            speed = (trainer.step - trainer.first) * args.batch / (time.time() - begin)
            print(f"step {trainer.step} {spent:.0f} s loss {mean:.4f} {speed:.0f} samples/s "
                  f"pool {len(pool.captions)}", flush=True)  # fmt: skip
        if time.time() - saved > 300:
            trainer.save(target)
            saved = time.time()
    pool.save()
    if rank == 0:
        trainer.save(target)


def main() -> None:
    """Parse, resume, train."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--decay-minutes", type=float, default=0)
    parser.add_argument("--until-step", type=int, default=10**9)
    parser.add_argument(
        "--batch", type=int, default=48, help="of each worker; every picture serves twice"
    )
    parser.add_argument(
        "--layers", type=int, nargs=3, metavar=("16", "8", "4"),
        help="residual blocks of each resolution, by default as before; new ones begin as an "
        "identity",
    )  # fmt: skip
    parser.add_argument("--lr", type=float, default=1e-3, help="AdamW")
    parser.add_argument("--muon-lr", type=float, default=0.02, help="0: AdamW for everything")
    parser.add_argument("--objects", type=int, default=163, help="how many training objects")
    parser.add_argument(
        "--second-times", type=int, nargs=2, default=(0, 400), metavar=("FIRST", "LAST"),
        help="timesteps at which each picture serves the second time",
    )  # fmt: skip
    parser.add_argument("--pool-start", type=int, default=2500, help="latents, of each worker")
    parser.add_argument("--simple", type=float, default=0.6, help="share of single centred objects")
    parser.add_argument("--variety", type=float, default=1.0, help="of their pose, 0 to 1")
    parser.add_argument("--styled", type=float, default=STYLED, help="share of sketches and such")
    parser.add_argument("--pairs", type=float, default=PAIRS, help="of two objects, of the others")
    parser.add_argument(
        "--unnamed", type=float, default=0, help="share of objects that captions do not name"
    )
    parser.add_argument(
        "--text-rate", type=float, default=0, help="the text encoder's share of the rates"
    )
    parser.add_argument(
        "--bf16", action="store_true", help="faster on a GPU, or a CPU with AVX512-BF16 or AMX"
    )
    parser.add_argument("--device", default="cpu", help="cuda: one worker, a batch of hundreds")
    parser.add_argument("--renderers", type=int, default=0, help="processes that draw the pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="unet", help="folder of the run in the work folder")
    args = parser.parse_args()
    if args.device != "cpu" and args.workers > 1:
        raise ValueError("A GPU takes one worker; add --workers 1.")
    torch.manual_seed(args.seed)
    folder = work_dir() / args.name
    folder.mkdir(exist_ok=True)
    text, state = build_text_encoder(load_tokenizer()), None
    paths = [folder / "stable.pt", folder / "start.pt"]
    if path := next((path for path in paths if path.is_file()), None):
        state = torch.load(path, weights_only=True, map_location="cpu")
        text.load_state_dict(state["text"])
        print(f"resumed at step {state['step']}", flush=True)
    known = state["unet"] if state and "unet" in state else None
    unet = build_unet(layers=tuple(args.layers or (layers_of(known) if known else LAYERS)))
    if known:
        unet.load_state_dict(carried_over(known, unet))
    counter = torch.tensor(state["step"] if state else 0).share_memory_()
    models = [model.to(args.device) for model in (unet, text)]
    if args.device == "cpu":
        models = [model.share_memory() for model in models]
    run_workers(work, args.workers, args, *models, counter, state)


if __name__ == "__main__":
    main()
