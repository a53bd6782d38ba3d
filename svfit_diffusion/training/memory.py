"""The memory that training and generating take at their peak, from a base's configuration.

The denoiser, the VAE and all text encoders are built on torch's meta device, without weights, and
a training step, the encoding of a photo, a denoising step and the decoding of a picture are run on
them (traced_memory.py). A run is the code that trains, so gradient checkpointing, `quantize fp8`
and `offload` count as they do there. The weights of "int8" and "4bit" are counted by their bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapter import Basis, SVFitLinear, find_projections, parse_rank, values_and_outputs
from ..families import Family, hollow_base, store_in_fp8
from ..settings import TrainConfig
from .adapted_base import ADAPTER, DTYPES, AdaptedBase
from .launcher import launched
from .objective import Denoiser
from .offloading import offload_blocks
from .precision import check_precision
from .traced_memory import META, Traced, fused_attention, tensors_of

BITS = {"int8": 8, "4bit": 4.127}  # of a weight; NF4's scale of 64 weights is quantised too
EXAMPLE = "a photo of sks dog"


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device at the peak: of preparing a training (photos and prompts), of a training
    step, and of generating a picture. weights: component -> bytes of it. unknown: why all but the
    weights was left out, "" where it was not.
    """

    preparing: int
    step: int
    generating: int
    weights: dict[str, int]
    unknown: str = ""


def estimate_memory(base: str, config: TrainConfig) -> MemoryEstimate:
    """The memory of a training with these settings, and of generating one picture of its size.

    base: "toybox", a diffusers folder (its weights may be missing, its tokenizers not) or a Hub id.
    ValueError where the configuration is not enough.
    """
    config = launched(config)
    pipe, family = hollow_base(base, DTYPES[config.mixed_precision])
    check_precision(config, family)
    return _Estimator(pipe, family, config).estimate()


class _Estimator:
    """A base on the meta device, as a training with these settings has it."""

    def __init__(self, pipe: Any, family: Family, config: TrainConfig) -> None:
        self.pipe, self.family, self.config = pipe, family, config
        self.side = config.resolution or family.size(pipe)
        if config.quantize == "fp8":
            store_in_fp8(pipe, family, DTYPES[config.mixed_precision])
        self.base = AdaptedBase(pipe, family, device=META)
        self.models = {k: m for k, m in pipe.components.items() if isinstance(m, nn.Module)}
        for model in self.models.values():
            model.requires_grad_(False)

    def estimate(self) -> MemoryEstimate:
        """All three peaks."""
        family, config = self.family, self.config
        try:
            photo, drawn, step, waiting = self._work()
            unknown = ""
        except (RuntimeError, NotImplementedError) as error:  # code that asks for a tensor's values
            photo, drawn, step, waiting = 0, (0, 0), 0, self._waiting()
            unknown = str(error).partition("\n")[0]
        weights = {part: self._bytes(part) for part in self.models}
        trained = {family.denoiser, *self.base.targets}
        here = sum(size for part, size in weights.items() if part in trained) - waiting
        if config.offload == "no":
            here += sum(size for part, size in weights.items() if part not in trained)
            peaks = here + photo, here + step, here + max(drawn)
        else:
            encoders, vae = sum(weights[p] for p in family.text_models(self.pipe)), weights["vae"]
            peaks = (
                max(vae + photo, encoders),
                here + step,
                max(here + drawn[0], vae + drawn[1], encoders),
            )
        return MemoryEstimate(*peaks, weights, unknown)

    def _work(self) -> tuple[int, tuple[int, int], int, int]:
        """The bytes beside the weights: of encoding a photo, of a denoising step and of decoding,
        and of a training step; and those of the weights that wait in main memory.
        """
        latents, raw, photo = self._photo()
        text = self._prompt()
        drawn = self._draw(latents, raw, text)
        self._adapt()
        waiting = self._waiting()
        return photo, drawn, self._step(latents, text), waiting

    def _waiting(self) -> int:
        """Bytes of weights in main memory, of blocks that are lent to the device from now on."""
        if self.config.offload != "block":
            return 0
        return offload_blocks(getattr(self.pipe, self.family.denoiser), META, META)

    def _prompt(self) -> dict[str, Tensor]:
        """What the frozen text encoders give of a prompt, on the meta device."""
        read = self.family.encode_frozen(self.pipe, [EXAMPLE], torch.device("cpu"))
        return {key: value.to(META) for key, value in read.items()}

    def _photo(self) -> tuple[Tensor, Tensor, int]:
        """The latents of a photo as they are trained on and as the VAE gives them, and the bytes
        that encoding takes beside the weights.
        """
        vae, seen = self.pipe.vae, []
        encode = vae.encode
        vae.encode = lambda pixels: seen.append(encode(pixels)) or seen[-1]
        try:
            pixels = torch.empty(1, 3, self.side, self.side, dtype=vae.dtype, device=META)
            size, (mean, _) = self._peak(self.family.encode_images, vae, pixels)
        finally:
            del vae.encode
        raw = seen[0].latent if hasattr(seen[0], "latent") else seen[0].latent_dist.mean
        return mean, raw, size

    @torch.no_grad()
    def _draw(self, latents: Tensor, raw: Tensor, text: dict[str, Tensor]) -> tuple[int, int]:
        """The bytes that a denoising step, and decoding a picture, take beside the weights."""
        denoiser = getattr(self.pipe, self.family.denoiser)
        distilled = getattr(denoiser.config, "guidance_embeds", False)
        guided = self.family.defaults.guidance > 1 and not distilled
        step, _ = self._peak(self._predict, latents, text, 2 if guided else 1)
        decode, _ = self._peak(self.pipe.vae.decode, raw)
        return step, decode

    def _step(self, latents: Tensor, text: dict[str, Tensor]) -> int:
        """The bytes that a training step takes beside the weights, with the deltas' gradients."""
        config, base = self.config, self.base
        if config.gradient_checkpointing:
            base.enable_gradient_checkpointing()
        count = config.train_batch_size * (2 if config.with_prior_preservation else 1)

        def step() -> None:
            predicted = self._predict(latents, text, count)
            F.mse_loss(predicted, torch.empty_like(predicted)).backward()

        return self._peak(step)[0]

    def _predict(self, latents: Tensor, text: dict[str, Tensor], count: int) -> Tensor:
        """The denoiser's prediction for `count` pictures, as objective.Denoiser makes it."""
        model = Denoiser(self.base, self.config.guidance_scale)
        model.prompt_encoder.encode = lambda prompts, device: self._conditioning(text, count)
        noisy = latents.expand(count, *latents.shape[1:]).clone().float()
        frames = torch.empty(count, 6, device=META)
        return model(noisy, torch.empty(count, device=META), [EXAMPLE] * count, frames)

    def _conditioning(self, text: dict[str, Tensor], count: int) -> dict[str, Tensor]:
        read = {k: v.expand(count, *v.shape[1:]).clone() for k, v in text.items()}
        ids = self.family.tokenize(self.pipe, [EXAMPLE] * count)
        return self.family.encode_text(self.pipe, tuple(i.to(META) for i in ids), read)

    def _peak(self, run: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
        """The most bytes that a call takes beside the weights, and what it returns."""
        held = [*tensors_of(self.models.values()), *(a for a in arguments if isinstance(a, Tensor))]
        with Traced(held) as traced, fused_attention():
            made = run(*arguments)
        return traced.most, made

    def _adapt(self) -> None:
        """Put deltas and their directions, as far as their sizes go, on what is trained."""
        family, config = self.family, self.config
        self.base.targets = {family.denoiser: config.attention}
        if config.train_text_encoder:
            self.base.targets |= {part: "self" for _, part in family.encoders}
        for part, model in self.base.adapted.items():
            text = part != family.denoiser
            ranks = values_and_outputs(model, config.rank_of_values(text))
            common, owner = 0 if text else config.common_size, None
            for name in find_projections(model, self.base.targets[part]):
                rank = parse_rank(ranks.get(name, config.rank))
                owner = _put_layer(model, name, rank, common, owner)

    def _bytes(self, part: str) -> int:
        """The bytes of a component's weights on the device, with the directions on them."""
        model, config = self.models[part], self.config
        frozen = [encoder.model for encoder in self.family.frozen_text_encoders]
        size = sum({id(t): t.nbytes for t in tensors_of([model])}.values())
        if config.quantize in BITS and part in (self.family.denoiser, *frozen):
            linear = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
            size -= sum(w.nbytes - int(w.numel() * BITS[config.quantize] / 8) for w in linear)
        return size


def _put_layer(
    model: nn.Module, name: str, rank: int | str, common: int, owner: SVFitLinear | None
) -> SVFitLinear:
    """Put an SVFit layer of a rank around a projection; a rank by energy counts as the full one.

    common: size of the common vector; owner: the layer that holds it, None for the first. Returns
    that layer.
    """
    parent, _, child = name.rpartition(".")
    linear = model.get_submodule(name)
    most = min(linear.out_features, linear.in_features)
    r = min(rank, most) if isinstance(rank, int) else most
    U, V = (torch.empty(n, r, device=META) for n in (linear.out_features, linear.in_features))
    layer = SVFitLinear(linear)
    basis = Basis(U, torch.ones(r), V, torch.arange(1, r + 1))
    layer.update_layer(ADAPTER, basis, common=common, name=name, owner=owner)
    layer.set_adapter([ADAPTER])
    setattr(model.get_submodule(parent), child, layer)
    return owner or layer
