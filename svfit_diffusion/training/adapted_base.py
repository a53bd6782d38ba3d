"""The base of a training, with what is trained on it: deltas, a common vector, a word's rows."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..adapter import (
    SVFitConfig,
    common_parameter,
    common_scale,
    layers,
    patch_attention,
    rms_singular_value,
    tie_deltas,
    values_and_outputs,
)
from ..concept import Trigger
from ..families import Family, WordOutput, family_of, load_base, recognise
from ..pipeline import class_difference, trigger
from ..settings import TrainConfig
from .precision import check_precision

log = logging.getLogger(__name__)
ADAPTER, TOKEN, COMMON = "subject", "token", "common"
MOST_VECTORS = 256  # numbers that a text encoder in bfloat16 says exactly, to find their places
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class AdaptedBase:
    """A frozen base on its device, and the parameters that a training adds to it.

    targets: component -> which of its attention has deltas. tokens: the names of the trigger's own
    tokens, in order, where it is learned; ids: text encoder -> the ids of those tokens. outputs:
    text encoder -> where its output gets the trigger, of those that are not trained through;
    state_scales: text encoder -> the size of its states there. device: of the training, where
    offloaded models (offloading.py) are not always; default: the denoiser's.
    """

    pipe: Any
    family: Family
    targets: dict[str, str] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    ids: dict[str, list[int]] = field(default_factory=dict)
    outputs: dict[str, WordOutput] = field(default_factory=dict)
    state_scales: dict[str, float] = field(default_factory=dict)
    device: torch.device | None = None

    def __post_init__(self) -> None:
        self.device = self.device or getattr(self.pipe, self.family.denoiser).device

    @property
    def adapted(self) -> dict[str, nn.Module]:
        """Component -> model, of those with deltas."""
        return {part: getattr(self.pipe, part) for part in self.targets}

    @property
    def trains_text(self) -> bool:
        """Whether a training changes what a prompt's conditioning is."""
        return bool(self.learners) or set(self.targets) != {self.family.denoiser}

    @property
    def learners(self) -> tuple[str, ...]:
        """The text encoders that learn the trigger."""
        return (*self.ids, *self.outputs)

    def learned_rows(self, part: str) -> list[nn.Parameter]:
        """The rows [width] of the trigger in a text encoder: embeddings, or vectors."""
        return trigger.row_parameters(getattr(self.pipe, part), ADAPTER)

    def parameter_groups(self) -> dict[str, dict[str, nn.Parameter]]:
        """What is trained, each group name -> parameter: the deltas of "denoiser" and "text", the
        denoiser's "common" vector, and the trigger's rows (or vectors) of each encoder, such as
        "text_encoder.token".
        """
        groups: dict[str, dict[str, nn.Parameter]] = {"denoiser": {}, "text": {}, COMMON: {}}
        for part, model in self.adapted.items():
            group = groups["denoiser" if part == self.family.denoiser else "text"]
            for name, layer in layers(model).items():
                group[f"{part}.{name}"] = layer.svfit_delta[ADAPTER]
            if (common := common_parameter(model, ADAPTER)) is not None:
                groups[COMMON][f"{part}.{COMMON}"] = common
        for part in self.learners:
            kind, rows = f"{part}.{TOKEN}", self.learned_rows(part)
            groups[kind] = {f"{kind}.{i}": row for i, row in enumerate(rows)}
        return groups

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that is trained, by name."""
        return {name: p for group in self.parameter_groups().values() for name, p in group.items()}

    def scales(self) -> dict[str, float]:
        """Of each group of parameters, the root mean square of the values that it changes: the
        singular values (for the common vector, as `common_scale` says), the encoder's table of
        embeddings, or its states.
        """
        denoiser = self.family.denoiser
        text = [model for part, model in self.adapted.items() if part != denoiser]
        found = {"denoiser": [getattr(self.pipe, denoiser)], "text": text}
        scales = {kind: rms_singular_value(models) for kind, models in found.items()}
        if common_parameter(found["denoiser"][0], ADAPTER) is not None:
            scales[COMMON] = common_scale(found["denoiser"][0], ADAPTER)
        for part in self.ids:
            table = getattr(self.pipe, part).get_input_embeddings().weight
            scales[f"{part}.{TOKEN}"] = table.float().square().mean().sqrt().item()
        return scales | {f"{part}.{TOKEN}": size for part, size in self.state_scales.items()}

    def tie_deltas(self) -> None:
        """Make the deltas of equal singular values equal, whose directions are not determined."""
        for model in self.adapted.values():
            tie_deltas(model, ADAPTER)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """For pictures: no model is in training mode, in which some give another output."""
        models = self.family.components(self.pipe).values()
        trained = [model for model in models if model.training]
        for model in trained:
            model.eval()
        try:
            yield
        finally:
            for model in trained:
                model.train()

    def add_deltas(self, config: TrainConfig, announce: bool = False) -> None:
        """Put an adapter on the attention that the configuration names."""
        family = self.family
        self.targets = {family.denoiser: config.attention}
        if config.train_text_encoder:
            self.targets |= {part: "self" for _, part in family.encoders}
        for part, model in self.adapted.items():
            text = part != family.denoiser
            settings = SVFitConfig(
                r=config.rank,
                rank_pattern=values_and_outputs(model, config.rank_of_values(text)),
                common=0 if text else config.common_size,
                base_dtype=family.dtype,
            )
            patched = patch_attention(model, settings, ADAPTER, self.targets[part])
            if announce:
                log.info("%s", patched)

    def add_trigger(
        self, word: str, class_word: str, count: int = 1, vectors: int | None = None
    ) -> None:
        """Give the trigger `count` trainable rows in each text encoder, which start at the class
        word's embedding; from here on the tokenizers read the word as them. An encoder that is not
        trained through gets vectors (default: as many), which start where the trigger reads as the
        class word.
        """
        vectors = vectors or count
        call = Trigger(word, class_word, {})
        for tokenizer_name, part in self.family.encoders:
            tokenizer, encoder = getattr(self.pipe, tokenizer_name), getattr(self.pipe, part)
            rows = trigger.start_row(tokenizer, encoder, class_word).repeat(count, 1)
            (learned,) = trigger.teach(tokenizer, encoder, ADAPTER, [call], [rows], train=True)
            self.ids[part], self.tokens = list(learned.ids), list(learned.names)
        outputs = self.family.outputs(self.pipe)
        if outputs and vectors > MOST_VECTORS:
            raise ValueError(
                f"num_vectors is {vectors}, but on this base it can be at most {MOST_VECTORS}."
            )
        for part, output in outputs.items():
            start, size = class_difference(self.pipe, self.family, part, word, class_word)
            reader = self.family.word_tokenizers(self.pipe)[part], getattr(self.pipe, part)
            rows = [start.repeat(vectors, 1)]
            (learned,) = trigger.teach_output(*reader, output, ADAPTER, [call], rows, train=True)
            self.outputs[part], self.tokens = output, list(learned.names)
            self.state_scales[part] = size

    def enable_gradient_checkpointing(self) -> None:
        """Keep fewer activations; what is trained must be in training mode for it."""
        for part, model in self.family.components(self.pipe).items():
            if part == self.family.denoiser:
                self.family.enable_gradient_checkpointing(model)
            else:
                model.gradient_checkpointing_enable()
            model.train(part in self.targets or part in self.ids)


def load_frozen_base(config: TrainConfig, device: torch.device) -> AdaptedBase:
    """The base of a training on its device, or with `offload` in main memory, with nothing trained
    on it yet.
    """
    name = config.pretrained_model_name_or_path
    check_precision(config, family_of(name, config.revision))  # before the weights are read
    options = {
        "revision": config.revision,
        "variant": config.variant,
        "quantize": config.quantize,
    }
    pipe = load_base(
        name,
        DTYPES[config.mixed_precision or "no"],
        **{key: value for key, value in options.items() if value},
    )
    family = recognise(pipe)
    family.check(config)
    pipe.set_progress_bar_config(disable=True)
    if config.mixed_precision not in (None, "no"):
        pipe.vae.to(torch.float32)  # its half precision overflows on some bases
    if config.offload == "no":
        pipe.to(device)
    for model in (*family.components(pipe).values(), *family.text_models(pipe).values(), pipe.vae):
        model.requires_grad_(False)
    return AdaptedBase(pipe, family, device=device)


def adapt(base: AdaptedBase, config: TrainConfig, words: tuple[str, str], announce: bool) -> None:
    """Put on a base all that the configuration trains. words: the trigger and the class word."""
    base.add_deltas(config, announce)
    if config.train_token:
        base.add_trigger(*words, config.embedding_rows, config.output_vectors)
    if announce and config.train_token and not base.tokens:
        log.info("the text encoder stays as it is, and reads the trigger as its words.")
