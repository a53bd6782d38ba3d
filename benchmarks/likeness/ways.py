"""Ways to learn a word and its few values that the product does not take, each a `Run`.

All begin as "plain" does, rank 16 everywhere with word and captions, and differ from it in one
thing. What they add in numbers is counted as rows in half precision.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from objects import ToyObject
from torch import Tensor, nn

from benchmarks.likeness.methods import Method
from benchmarks.likeness.trainings import TOKEN, TOKEN_RATE, Drawer, Run, Shipped
from svfit_diffusion.adapter.tuner import layers
from svfit_diffusion.concept import Trigger
from svfit_diffusion.families import clip_ids
from svfit_diffusion.pipeline import trigger
from svfit_diffusion.training.backgrounds import PHRASES
from svfit_diffusion.training.objective import Objective

KEPT = 64  # texts of which it is remembered where the word stands


def at_trigger(run: Run, ids: Tensor) -> Tensor:
    """Where the trigger stands in texts of these ids, as they are shaped."""
    return torch.isin(ids, torch.tensor(run.adapted.ids["text_encoder"]))


class Decayed(Run):
    """Deltas that decay towards 0, in place of class pictures."""

    DECAY = 0.5  # times the rate, of each step

    def start(self) -> None:
        self.optimizer.param_groups[0]["weight_decay"] = self.DECAY


class Direction(Run):
    """A word of which only the direction is learned, at the vocabulary's mean norm, with a prior
    towards the class word (Directional Textual Inversion, arXiv 2512.13672).
    """

    PRIOR = 1e-4

    def start(self) -> None:
        table = self.pipe.text_encoder.get_input_embeddings().weight
        self.norm = table.detach().norm(dim=1).mean()
        self.first = [row.detach().clone() for row in self.rows]
        self.after_step()

    def batch_loss(self, objective: Objective, model: nn.Module, number: int) -> Tensor:
        pairs = zip(self.rows, self.first, strict=True)
        near = sum(F.cosine_similarity(row, first, dim=-1) for row, first in pairs)
        return super().batch_loss(objective, model, number) - self.PRIOR * near

    @torch.no_grad()
    def after_step(self) -> None:
        for row in self.rows:
            row.mul_(self.norm / row.norm())


class FromOutput(Run):
    """A word that starts as what the text encoder makes of the class word (Cross-Initialization,
    arXiv 2312.15905).
    """

    @torch.no_grad()
    def start(self) -> None:
        ids = clip_ids(self.pipe.tokenizer, [self.config.instance_prompt])
        states = self.pipe.text_encoder(ids).last_hidden_state
        (row,) = self.rows
        row.copy_(states[at_trigger(self, ids)].mean(0))


class Context(Run):
    """A word that leaves the text encoder's states of the words around it as the class word does
    (CoRe, arXiv 2408.15914).
    """

    WEIGHT, TEXTS = 0.1, 4  # of the loss; texts of each step

    @torch.no_grad()
    def start(self) -> None:
        subject = f"a photo of {TOKEN} {self.item.kind}"
        self.texts = clip_ids(self.pipe.tokenizer, [f"{subject} {words}" for words in PHRASES])
        self.first = self.pipe.text_encoder(self.texts).last_hidden_state  # the word is its class
        self.around = ~at_trigger(self, self.texts)

    def batch_loss(self, objective: Objective, model: nn.Module, number: int) -> Tensor:
        chosen = torch.arange(self.TEXTS) + number * self.TEXTS
        chosen %= len(self.texts)
        states = self.pipe.text_encoder(self.texts[chosen]).last_hidden_state
        near = F.cosine_similarity(states, self.first[chosen], dim=-1)[self.around[chosen]]
        return super().batch_loss(objective, model, number) + self.WEIGHT * (1 - near).mean()


class PhotoWords(Run):
    """A throw-away word for each photo, which must not change what is predicted for another one
    (ConceptPrism, arXiv 2602.19575).
    """

    WEIGHT, ADAPTER, NOUN = 1.0, "photos", "photo"

    def start(self) -> None:
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder
        captions = self.subject.examples.captions
        self.words = [f"photoword{chr(ord('a') + i)}" for i in range(len(captions))]
        calls = [Trigger(word, self.NOUN, {}) for word in self.words]
        rows = [trigger.start_row(tokenizer, encoder, self.NOUN)[None] for _ in self.words]
        trigger.teach(tokenizer, encoder, self.ADAPTER, calls, rows, train=True)
        learned = trigger.row_parameters(encoder, self.ADAPTER)
        self.optimizer.add_param_group({"params": learned, "lr": TOKEN_RATE})
        self.parameters += learned  # and not rows: they are thrown away
        self.captions = dict(zip(self.words, captions, strict=True))
        named = tuple(f"{caption} {word}" for word, caption in self.captions.items())
        self.subject.examples = replace(self.subject.examples, captions=named)

    def batch_loss(self, objective: Objective, model: nn.Module, number: int) -> Tensor:
        excluding = Excluding(model, self.words)
        loss = super().batch_loss(objective, excluding, number)
        return loss + self.WEIGHT * excluding.penalty


class Excluding(nn.Module):
    """A denoiser, and how much it is changed by the word of another photo at a caption's end."""

    def __init__(self, model: nn.Module, words: list[str]) -> None:
        super().__init__()
        self.model, self.words, self.penalty = model, words, torch.zeros(())

    def forward(self, noisy: Tensor, times: Tensor, prompts: list[str], frames: Tensor) -> Tensor:
        """The prediction, as the denoiser's."""
        parts = [prompt.rsplit(" ", 1) for prompt in prompts]
        places = [self.words.index(word) for _, word in parts]
        turns = 1 + torch.randint(len(self.words) - 1, (len(parts),))
        others = [self.words[(i + int(n)) % len(self.words)]
                  for i, n in zip(places, turns, strict=True)]  # fmt: skip
        with torch.no_grad():
            plain = self.model(noisy, times, [text for text, _ in parts], frames)
        texts = [f"{text} {other}" for (text, _), other in zip(parts, others, strict=True)]
        self.penalty = F.mse_loss(self.model(noisy, times, texts, frames), plain)
        return self.model(noisy, times, prompts, frames)


class AtTrigger(Run):
    """Something in the cross-attention of the denoiser, at the trigger's place of each prompt.

    What the text encoder says of the last texts is remembered with these places, and found again in
    what the denoiser is given.
    """

    RATE = 1e-2

    def start(self) -> None:
        self.said: deque[tuple[Tensor, Tensor]] = deque(maxlen=KEPT)
        self.places = self.times = None
        denoiser = getattr(self.pipe, self.family.denoiser)
        self.pipe.text_encoder.register_forward_hook(self._remember)
        denoiser.register_forward_pre_hook(self._find, with_kwargs=True)
        crossing = {
            name: layer
            for name, layer in layers(denoiser).items()
            if "attn2" in name and name.endswith(("to_k", "to_v"))
        }
        learned = self.learned(crossing)
        self.optimizer.add_param_group({"params": learned, "lr": self.RATE})
        self.parameters += learned
        self.rows += learned

    def learned(self, crossing: dict[str, nn.Module]) -> list[nn.Parameter]:
        """What is learned, having been put into keys and values."""
        raise NotImplementedError

    def _remember(self, encoder: nn.Module, args: tuple, output: Any) -> None:
        places = at_trigger(self, args[0])[..., None].float()
        self.said.extend(zip(output.last_hidden_state.detach(), places, strict=True))

    def _find(self, denoiser: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        states = kwargs["encoder_hidden_states"] if len(args) < 3 else args[2]
        self.times = torch.as_tensor(args[1]).float().expand(len(states))
        found = (
            next(places for said, places in reversed(self.said) if torch.equal(said, row))
            for row in states.detach()
        )
        self.places = torch.stack(list(found))


class Values(AtTrigger):
    """A shift of the values there, in their singular basis (after Perfusion, arXiv 2305.01644)."""

    def learned(self, crossing: dict[str, nn.Module]) -> list[nn.Parameter]:
        shifts = []
        for name, layer in crossing.items():
            if name.endswith("to_v"):
                (U,) = layer.svfit_U.values()
                shift = nn.Parameter(torch.zeros(U.shape[1]))
                layer.register_forward_hook(self._shifting(shift, U.float()))
                shifts.append(shift)
        return shifts

    def _shifting(self, shift: nn.Parameter, U: Tensor) -> Any:
        return lambda layer, args, output: output + self.places * (U @ shift)


class Layered(AtTrigger):
    """A word for each layer and noise level, in few directions: B (c_l + M phi(t)), added to its
    state (P+, arXiv 2303.09522; NeTI, 2305.15391). B: the leading directions of the states of the
    vocabulary, each as long as its deviation.
    """

    DIRECTIONS, WAVES = 16, 2

    def learned(self, crossing: dict[str, nn.Module]) -> list[nn.Parameter]:
        blocks = sorted({name.rpartition(".")[0] for name in crossing})
        each = {block: nn.Parameter(torch.zeros(self.DIRECTIONS)) for block in blocks}
        self.over_time = nn.Parameter(torch.zeros(2 * self.WAVES, self.DIRECTIONS))
        self.directions = self._directions()
        for name, layer in crossing.items():
            layer.register_forward_pre_hook(self._moving(each[name.rpartition(".")[0]]))
        return [*each.values(), self.over_time]

    @torch.no_grad()
    def _directions(self) -> Tensor:
        """[directions, width]."""
        tokenizer, encoder = self.pipe.tokenizer, self.pipe.text_encoder
        words = [word for word in tokenizer.get_vocab() if word.endswith("</w>")]
        ids = clip_ids(tokenizer, [word.removesuffix("</w>") for word in words])
        states = encoder(ids).last_hidden_state[:, 1]
        centred = states - states.mean(0)
        _, s, V = torch.linalg.svd(centred, full_matrices=False)
        return (s[:, None] * V)[: self.DIRECTIONS] / len(words) ** 0.5

    def _moving(self, shift: nn.Parameter) -> Any:
        def move(layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            angles = self.times[:, None] / 1000 * torch.arange(1, self.WAVES + 1) * torch.pi
            waves = torch.cat([angles.sin(), angles.cos()], 1)
            moved = (shift + waves @ self.over_time) @ self.directions
            return (args[0] + self.places * moved[:, None],)

        return move


WAYS: dict[str, type[Run]] = {
    "": Run,
    "decayed": Decayed,
    "direction": Direction,
    "from-output": FromOutput,
    "context": Context,
    "photo-words": PhotoWords,
    "values": Values,
    "layered": Layered,
}


def subject_run(method: Method, item: ToyObject, seed: int, rate: float, work: Path) -> Drawer:
    """A method and a subject, not trained yet."""
    if method.name == "base":
        kind = Drawer
    else:
        kind = WAYS[method.way] if method.settings is None else Shipped
    return kind(method, item, seed, rate, work)
