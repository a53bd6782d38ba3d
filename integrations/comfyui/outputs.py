"""The learned word in the output of a text encoder that is not trained through: T5, Qwen, Mistral.

    h' = h + strength v      at the tokens of the word

The encoder reads the word as it is typed; each id of its tokens knows the vector that belongs to
it, so a CLIP without the concept, which shares the encoder, hears nothing of it. A hook after the
encoder's forward adds the vectors to the hidden states that ComfyUI gives on to the model.
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from svfit_diffusion.concept import Concept, Trigger
from svfit_diffusion.pipeline.word import find_words

OUTPUTS = {  # family -> text encoder whose output may have a word -> ComfyUI's names for it
    "sd3": {"text_encoder_3": ("t5xxl",)},
    "flux": {"text_encoder_2": ("t5xxl",)},
    "flux2-klein": {"text_encoder": ("qwen3_4b", "qwen3_8b")},
    "flux2": {"text_encoder": ("mistral3_24b",)},
    "z-image": {"text_encoder": ("qwen3_4b",)},
}


class WordId(int):
    """The id of a token of a learned word, and what its state gets: `vector` [layers x width]."""

    vector: Tensor


class TagsWords:
    """In the place of a Hugging Face tokenizer: as it, but ids of learned words are `WordId`s.

    vectors: word, in lower case -> vectors [tokens, layers x width].
    """

    def __init__(self, plain: Any, vectors: Mapping[str, Tensor]) -> None:
        self.plain, self.vectors = plain, dict(vectors)

    def __getattr__(self, name: str) -> Any:
        if name == "plain":  # not there yet, in a copy that is being made
            raise AttributeError(name)
        return getattr(self.plain, name)

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        """`input_ids` of a text. The first token of a word gets the first vector, and so on; if it
        has more tokens than vectors, the rest gets the last one.
        """
        found = list(find_words(text, self.vectors)) if isinstance(text, str) else []
        if not found:
            return self.plain(text, *args, **kwargs)
        read = self._with_offsets(text, *args, **kwargs)
        ids = list(read["input_ids"])
        for first, last, word in found:
            vectors = self.vectors[word]
            spans = enumerate(read["offset_mapping"])
            places = [at for at, (start, stop) in spans if start < last and first < stop]
            for nth, at in enumerate(places):
                ids[at] = WordId(ids[at])
                ids[at].vector = vectors[min(nth, len(vectors) - 1)]
        return {**read, "input_ids": ids}

    def _with_offsets(self, text: str, *args: Any, **kwargs: Any) -> Any:
        """The ids of a text with their places in it, which only fast tokenizers know: before
        transformers 5, ComfyUI's are slow.
        """
        if not getattr(self.plain, "is_fast", True):
            slow = type(self.plain)
            fast = getattr(sys.modules[slow.__module__.partition(".")[0]], f"{slow.__name__}Fast")
            self.plain = fast.from_pretrained(self.plain.name_or_path)
        return self.plain(text, *args, **kwargs | {"return_offsets_mapping": True})


class AddVectors:
    """After a text encoder's forward on lists of tokens: its states z, with the vectors added."""

    def __call__(self, encoder: nn.Module, args: tuple, output: tuple) -> tuple | None:
        """z: [prompts, length, width], or [prompts, layers, length, width] of several layers."""
        (tokens,), z = args, output[0]
        places = [(n, i) for n, row in enumerate(tokens) for i, y in enumerate(row) if _tagged(y)]
        if not places:
            return None
        if (encoder.layer, encoder.layer_idx) != encoder.options_default[:2]:
            logging.warning("SVFit: the learned word is not heard, as CLIP stops at another layer.")
            return None
        if any(z.shape[-2] != len(row) for row in tokens):
            logging.warning("SVFit: the learned word is not heard beside pictures in the prompt.")
            return None
        z = z.clone()
        for n, i in places:
            state = z[n, ..., i, :]
            state += tokens[n][i].vector.to(z.device).view(state.shape)
        return (z, *output[1:])


def _tagged(token: Any) -> bool:
    return isinstance(token, WordId)


def encoders_of(concept: Concept, clip: Any, family: str) -> dict[str, str]:
    """Text encoder -> ComfyUI's name, of those in whose output the concept has a word, and that
    the CLIP has. ValueError where their states are of other layers or another width.
    """
    known, found = OUTPUTS.get(family, {}), {}
    for part in concept.outputs:
        for name in known.get(part, ()) if clip is not None else ():
            encoder = getattr(clip.cond_stage_model, name, None)
            if encoder is not None and hasattr(clip.tokenizer, name):
                found[part] = name
                if _reads(encoder) != (concept.outputs[part], concept.trigger_shape[part][1]):
                    raise ValueError(
                        f"this concept's learned word is not one for the {name} of this CLIP; the "
                        "file is damaged, or of another base."
                    )
    return found


def _reads(encoder: Any) -> tuple[tuple[int, ...], int]:
    """The layers whose states ComfyUI reads, as transformers numbers them, and their width."""
    layer, index, *_ = encoder.options_default
    layers = tuple(layer) if isinstance(layer, list) else () if layer == "last" else (index,)
    width = encoder.transformer.get_input_embeddings().weight.shape[1]
    return layers, max(1, len(layers)) * width


def without_unheard(concept: Concept, heard: Iterable[str], clip: Any) -> Concept:
    """The concept without the vectors for text encoders that are not there, which the log says."""
    missing = sorted({*concept.outputs} - {*heard})
    if missing:
        why = (
            "no CLIP is connected"
            if clip is None
            else "this CLIP has no text encoder that is called so"
        )
        logging.warning(
            "SVFit: what was learned of the word in the output of %s is not applied, as %s.",
            " and ".join(missing),
            why,
        )
    return concept.without_outputs(missing)


def teach_outputs(
    clip: Any, calls: Iterable[Trigger], encoders: Mapping[str, str], strength: float
) -> None:
    """Let a CLIP, whose tokenizer is its own, tag the words of a concept, at a strength."""
    calls = tuple(calls)
    for part, name in encoders.items():
        own = copy.copy(getattr(clip.tokenizer, name))
        held = (
            own.tokenizer if isinstance(own.tokenizer, TagsWords) else TagsWords(own.tokenizer, {})
        )
        vectors = {
            call.word.lower(): strength * call.strength * torch.from_numpy(call.rows[part]).float()
            for call in calls
            if part in call.rows
        }
        own.tokenizer = TagsWords(held.plain, {**held.vectors, **vectors})
        setattr(clip.tokenizer, name, own)
        encoder = getattr(clip.cond_stage_model, name)
        if not any(isinstance(hook, AddVectors) for hook in encoder._forward_hooks.values()):
            encoder.register_forward_hook(AddVectors())
