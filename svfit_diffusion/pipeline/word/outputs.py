"""A learned word in the output of a text encoder that is not trained through.

    h' = h + strength v      at the tokens of the word; v: [layers x width]

v lies in the encoder's own module. A hook before its forward takes the tags off the ids
(tagging.py), one after it adds v to the hidden states that the denoiser reads; so all pipelines on
the encoder hear the word, and nothing of the encoder is replaced. Where a pipeline calls the
encoder's layers itself, they have these hooks instead. At strength 0, and without the word, the
states are what they were, to the bit. The sum is made in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...families import WordOutput
from .rows import VECTORS, FusedRows, LearnedRows, TriggerRows, Word
from .states import with_states
from .tagging import AMBIGUOUS, learned_tokens, untagged

TOKENS = "_svfit_tokens"  # attribute of ids: the learned token at each place
ADDED, TYPED, PLACES = "added", "typed", "places"  # what the output is: h', h, or where v would be


def with_vector(states: Tensor, there: Tensor, vector: Tensor) -> Tensor:
    """states [..., length, width], with `vector` [..., width] added where `there` [..., length]."""
    added = (states.float() + vector).to(states.dtype)
    return torch.where(there.unsqueeze(-1), added, states)


class LearnedVectors(LearnedRows):
    """The vectors [layers x width] of a concept's words, float32; they start at nothing, so that
    a strength multiplies them.

    Pipelines may tokenize the prompts of a batch one by one, which does not say whose text is read.
    So a word of a batch is tagged with the tokens of one of those that are called by it, and each
    row of the text encoder takes those of its own text's for them.
    """

    def forward(self, ids: Tensor, found: Tensor, strength: float) -> Tensor:
        """States found [..., length, layers x width], with the vectors added at the learned tokens
        ids [..., length].
        """
        ids = ids if len(self.texts or ()) < 2 else self._own(ids)
        tokens = ((token, word.share) for word in self.words for token in word.ids)
        for i, (token, share) in enumerate(tokens):
            if strength * share:
                vector = (strength * share * self[i]).to(found.device)
                found = with_vector(found, ids == token, vector)
        return found

    def heard(self, text: int | None) -> tuple[Word, ...]:
        """The words that text number `text` of a batch hears; None: those that any text hears."""
        if text is None and len(self.texts or ()) > 1:
            return tuple(self._shared().values())
        return super().heard(text)

    def _shared(self) -> dict[str, Word]:
        """Each word, in lower case -> the one of most tokens that is called by it."""
        found: dict[str, Word] = {}
        for word in sorted(self.words, key=lambda word: len(word.ids)):
            found[word.word.lower()] = word
        return found

    def _own(self, ids: Tensor) -> Tensor:
        """Learned tokens as they are tagged [k * n, length], n: the texts of the batch -> in each
        row those that its text hears, 0 for others.
        """
        texts, shared = self.texts or (), self._shared()
        if (ids == AMBIGUOUS).any():
            raise ValueError(
                f"of the words {', '.join(sorted(shared))} some overlap in a prompt, and are of "
                "different concepts of the batch; generate their pictures in two calls."
            )
        if len(ids) % len(texts):
            tagged = ids.new_tensor([token for word in shared.values() for token in word.ids])
            if torch.isin(ids, tagged).any():
                raise ValueError(
                    f"the text encoder was given {len(ids)} texts, but concepts were given for "
                    f"{len(texts)}; pass a list with one prompt, and one negative prompt, for each."
                )
            return ids
        own = torch.zeros_like(ids)
        for row, words in enumerate(texts):
            typed, there = ids[row :: len(texts)], own[row :: len(texts)]
            for word in words:
                for n, token in enumerate(shared[word.word.lower()].ids):
                    mine = word.ids[min(n, len(word.ids) - 1)]
                    there.masked_fill_(typed == token, mine)
        return own


class WordVectors(TriggerRows):
    """The learned words of a text encoder that is not trained through."""

    kind = LearnedVectors
    place = VECTORS


class TakeTagsOff:
    """Before a text encoder's forward: ids as typed, which know the learned token at each place."""

    def __call__(self, encoder: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The arguments, with ids [..., length] as typed."""
        ids = args[0] if args else kwargs.get("input_ids")
        if VECTORS not in encoder._modules or ids is None:
            return None
        typed = untagged(ids)
        setattr(typed, TOKENS, learned_tokens(ids))
        return ((typed, *args[1:]), kwargs) if args else (args, kwargs | {"input_ids": typed})


class AddVectors:
    """After a text encoder's forward: the vectors in the states that the denoiser reads.

    layers: those states, as in WordOutput. reads: ADDED, or, for a training, TYPED or PLACES.
    """

    def __init__(self, layers: Sequence[int]) -> None:
        self.layers, self.reads = tuple(layers), ADDED

    def __call__(self, encoder: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """The output, whose states are changed."""
        ids = args[0] if args else kwargs.get("input_ids")
        tokens = getattr(ids, TOKENS, None)
        if tokens is None or VECTORS not in encoder._modules or self.reads == TYPED:
            return None
        if isinstance(output, tuple):
            raise ValueError(
                "a learned word lies in this text encoder's output, which is a plain tuple here; "
                "call it without return_dict=False."
            )
        states = getattr(output, "hidden_states", None) if self.layers else None
        if not self.layers:
            output.last_hidden_state = self.changed(encoder, tokens, output.last_hidden_state)
        elif states is not None:
            read = torch.cat([states[layer] for layer in self.layers], dim=-1)
            found = self.changed(encoder, tokens, read)
            if not torch.equal(found, read):
                new = found.chunk(len(self.layers), dim=-1)
                output.hidden_states = with_states(states, self.layers, new)
        return output

    def changed(self, encoder: nn.Module, tokens: Tensor, found: Tensor) -> Tensor:
        """States found [..., length, layers x width], as what it reads, at the learned tokens
        [..., length].
        """
        vectors, tokens = encoder._modules[VECTORS], tokens.to(found.device)
        if isinstance(vectors, WordVectors) and vectors.holder is not encoder:
            vectors.bind(encoder)
        if self.reads == PLACES:
            return _places(vectors, tokens, found)
        return vectors(tokens, found)


class AddOneByOne(AddVectors):
    """The same for a text encoder whose layers a pipeline calls one after the other: the states
    that came out of them are changed in place after the last one has read what it needs of them.
    """

    def __init__(self, encoder: Any, layers: Sequence[int]) -> None:
        super().__init__(layers)
        self.encoder, self.tokens, self.states = encoder, None, []
        table, made = encoder.get_input_embeddings(), encoder.get_decoder().layers
        table.register_forward_pre_hook(self.begin)
        for layer in layers:
            made[layer - 1].register_forward_hook(self.keep)

    def begin(self, table: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Before ids are looked up: the ids as typed."""
        self.tokens, self.states = learned_tokens(args[0]), []
        return (untagged(args[0]),)

    def keep(self, layer: nn.Module, args: tuple, output: Tensor) -> None:
        """After a layer whose states the denoiser reads."""
        self.states.append(output)
        if len(self.states) == len(self.layers):
            states, self.states = self.states, []
            away = VECTORS not in self.encoder._modules
            if self.tokens is None or away or self.reads == TYPED:
                return
            read = torch.cat([one.to(output.device) for one in states], dim=-1)
            new = self.changed(self.encoder, self.tokens, read).chunk(len(states), dim=-1)
            for one, value in zip(states, new, strict=True):
                one.copy_(value)


OURS = (TakeTagsOff, AddVectors)


def _places(vectors: WordVectors, tokens: Tensor, found: Tensor) -> Tensor:
    """The number of the vector, from 1, at its tokens, and 0 elsewhere; in the shape of `found`."""
    learned = [token for word in vectors.known() for token in word.ids]
    numbers = torch.zeros_like(tokens)
    for number, token in enumerate(learned, start=1):
        numbers = numbers.masked_fill(tokens == token, number)
    return numbers.to(found.dtype).unsqueeze(-1).expand_as(found).contiguous()


def install_vectors(encoder: nn.Module, output: WordOutput) -> WordVectors:
    """The vectors of a text encoder, put in if there are none yet."""
    held = encoder._modules.get(VECTORS)
    if isinstance(held, WordVectors):
        return held
    vectors = WordVectors(encoder, held)
    encoder.add_module(VECTORS, vectors)
    if _hooks(encoder):
        return vectors
    if output.one_by_one:
        AddOneByOne(encoder, output.layers)
    else:
        encoder.register_forward_pre_hook(TakeTagsOff(), with_kwargs=True)
        encoder.register_forward_hook(AddVectors(output.layers), with_kwargs=True)
    return vectors


def uninstall_vectors(encoder: nn.Module) -> None:
    """Take the vectors out again, where none is left."""
    vectors = encoder._modules.get(VECTORS)
    if vectors is None or vectors.known():
        return
    delattr(encoder, VECTORS)
    for module in encoder.modules():
        _drop(module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
        _drop(module._forward_hooks, module._forward_hooks_with_kwargs)


def _drop(hooks: dict[int, Any], with_kwargs: dict[int, bool]) -> None:
    """Take our hooks out of a module's."""
    for key in [key for key, hook in hooks.items() if isinstance(_owner(hook), OURS)]:
        del hooks[key]
        with_kwargs.pop(key, None)


def _hooks(encoder: nn.Module) -> list[AddVectors]:
    held = (_owner(hook) for module in encoder.modules() for hook in module._forward_hooks.values())
    return list(dict.fromkeys(hook for hook in held if isinstance(hook, AddVectors)))


def _owner(hook: Any) -> Any:
    """A hook, or what it is a method of."""
    return getattr(hook, "__self__", hook)


@contextlib.contextmanager
def reading(encoder: nn.Module, what: str) -> Iterator[None]:
    """For a while, a text encoder gives its output as TYPED, or PLACES instead of states."""
    hooks = _hooks(encoder)
    for hook in hooks:
        hook.reads = what
    try:
        yield
    finally:
        for hook in hooks:
            hook.reads = ADDED


@contextlib.contextmanager
def without_vectors(model: nn.Module) -> Iterator[list[str]]:
    """The vectors out of the way, to save a text encoder; gives the fused words that it loses."""
    held = model._modules.get(VECTORS)
    if held is None:
        yield []
        return
    fused = held if isinstance(held, FusedRows) else held.base_layer
    del model._modules[VECTORS]
    try:
        yield [word.word for word in fused.known()]
    finally:
        model._modules[VECTORS] = held
