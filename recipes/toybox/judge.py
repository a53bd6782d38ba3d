"""Judges of generated pictures: which object, which background, which colour.

Objects: nearest reference render by EfficientNet-Lite0 features. Backgrounds: a small network
trained on renders. Plain colours: the median of the border against the named colours.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from common import save_checkpoint, work_dir
from objects import REFERENCES
from PIL import Image
from scenes import COLOURS, PATTERNS, SCENES
from torch import nn
from world import Placed, Sample, World

from svfit_diffusion.evaluation.features import EfficientNetLite0

KINDS = ("plain", *PATTERNS, *SCENES)
VIEWS = (("plain", ("white",)), ("plain", ("blue",)), ("plain", ("yellow",)),
         ("stripes", ("red", "white")), ("gradient", ("blue", "pink")),
         *((scene, ()) for scene in SCENES))  # fmt: skip


class Recogniser:
    """Nearest of all reference renders: training, dev and sealed objects, 195 of them for good."""

    def __init__(self) -> None:
        self.judge, path = EfficientNetLite0(), work_dir() / "references.pt"
        if path.is_file():
            self.views = torch.load(path, weights_only=True)
            if self.views.shape[0] == len(REFERENCES):
                return
        world, rng = World(REFERENCES), np.random.default_rng(1)
        pictures = [Image.fromarray(world.render(rng, Sample(kind, colours, "photo", [
            Placed(item, 100 if kind == "plain" else 84, 64, 64 if kind == "plain" else 72)
        ]))) for item in REFERENCES for kind, colours in VIEWS]  # fmt: skip
        self.views = self.judge.features(pictures).reshape(len(REFERENCES), len(VIEWS), -1)
        save_checkpoint(path, self.views)

    def ranking(self, pictures: list[Image.Image], on_white: bool) -> torch.Tensor:
        """Object indices, nearest first: (pictures, objects)."""
        views = self.views[:, :1] if on_white else self.views
        likeness = torch.einsum("pf,ovf->pov", self.judge.features(pictures), views)
        return likeness.amax(2).argsort(1, descending=True)

    def names(self, pictures: list[Image.Image], on_white: bool = False) -> list[str]:
        """Name of the nearest object of each picture."""
        return [REFERENCES[int(row[0])].name for row in self.ranking(pictures, on_white)]

    def ranks(self, pictures: list[Image.Image], names: list[str]) -> list[int]:
        """Place of the named object in each picture's ranking on white, 1 = nearest."""
        order = self.ranking(pictures, on_white=True)
        index = {item.name: i for i, item in enumerate(REFERENCES)}
        return [int((row == index[name]).nonzero()[0, 0]) + 1
                for row, name in zip(order, names, strict=True)]  # fmt: skip


def tensor(pictures: list) -> torch.Tensor:
    """Pictures as (batch, 3, 64, 64) in [-1, 1]."""
    arrays = np.stack([np.asarray(p.convert("RGB") if isinstance(p, Image.Image) else p)
                       for p in pictures])  # fmt: skip
    return F.avg_pool2d(torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1, 2)


class Backgrounds:
    """A small network that tells the kind of background; trained once, its accuracy kept."""

    def __init__(self) -> None:
        layers = []
        for before, after in ((3, 24), (24, 48), (48, 64), (64, 64)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        pool = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, len(KINDS))]
        self.net = nn.Sequential(*layers, *pool)
        path = work_dir() / "backgrounds.pt"
        if path.is_file():
            state = torch.load(path, weights_only=True)
            self.net.load_state_dict(state["net"])
            self.accuracy = state["accuracy"]
        else:
            self.accuracy = self.train()
            save_checkpoint(path, {"net": self.net.state_dict(), "accuracy": self.accuracy})
        self.net.eval()

    def renders(self, seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Fresh renders in photo style and their kinds, all kinds equally often."""
        rng, world, pictures, labels = np.random.default_rng(seed), World(), [], []
        for index in range(count):
            kind = KINDS[index % len(KINDS)]
            while (sample := world.draw(rng, 0.6)).kind != kind:
                pass
            sample.style = "photo"
            pictures.append(world.render(rng, sample))
            labels.append(KINDS.index(kind))
        return tensor(pictures), torch.tensor(labels)

    def train(self) -> float:
        """Train on 5,000 renders, blurred and noisy at random; returns accuracy on 800 others."""
        torch.manual_seed(2)
        x, y = self.renders(3, 5000)
        optimizer = torch.optim.AdamW(self.net.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=500)
        for _ in range(500):
            chosen = torch.randint(len(x), (64,))
            batch = x[chosen] + torch.rand(64, 1, 1, 1) * 0.15 * torch.randn(64, 3, 64, 64)
            if torch.rand(()) < 0.4:
                batch = F.avg_pool2d(batch, 3, 1, 1)
            F.cross_entropy(self.net(batch), y[chosen]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        self.net.eval()
        x, y = self.renders(4, 800)
        with torch.inference_mode():
            return float((self.net(x).argmax(1) == y).float().mean())

    def kinds(self, pictures: list[Image.Image]) -> list[str]:
        """Kind of background of each picture."""
        with torch.inference_mode():
            return [KINDS[int(i)] for i in self.net(tensor(pictures)).argmax(1)]


def border_colour(picture: Image.Image) -> str:
    """The named colour nearest to the median of a 6-px border."""
    array = np.asarray(picture.convert("RGB"), np.float32)
    edges = (array[:6], array[-6:], array[:, :6], array[:, -6:])
    border = np.concatenate([edge.reshape(-1, 3) for edge in edges])
    middle = np.median(border, 0)
    return min(COLOURS, key=lambda name: np.square(middle - COLOURS[name]).sum())
