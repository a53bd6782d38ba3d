"""How long to train, where nobody says: `--max_train_steps auto`.

The training's own loss on its photos, at fixed noise and timesteps, is measured as it goes on. The
best state is kept. The training ends when the last PATIENCE measurements lowered the loss, smoothed
over SMOOTHED of them, by no more than SETTLED of what all before them did, or at
`settings.MOST_AUTO_STEPS`. No photo is held out: the likeness misses it, and the loss on a photo
that is not trained on rises while the likeness still grows (docs/training-length.md).

The measurements are EVERY steps apart at first and step / GROWTH steps later, so that a long
training waits longer. All of it follows from the losses measured so far, so that a resumed training
ends where an unbroken one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .fixed_noise import FixedNoise, samples
from .objective import Objective
from .runtime import restore, snapshot

SAMPLES = 16
EVERY, GROWTH = 25, 10
PATIENCE, SMOOTHED, SETTLED = 5, 3, 0.15
BEST = "best."  # and a parameter's name: a tensor of a checkpoint


def settled(losses: Sequence[float]) -> bool:
    """Whether the losses, the first of them the base's, have stopped falling."""
    measured = losses[1:]
    windows = (measured[max(0, i + 1 - SMOOTHED) : i + 1] for i in range(len(measured)))
    smooth = [sum(window) / len(window) for window in windows]
    if len(smooth) <= PATIENCE:
        return False
    before, now = min(smooth[:-PATIENCE]), min(smooth[-PATIENCE:])
    return not before - now > SETTLED * max(0.0, losses[0] - before)


def auto_length(objective: Objective, parameters: dict[str, Tensor]) -> AutoLength:
    """What lets the loss on the subject's photos say when the training ends."""
    return AutoLength(samples(objective, objective.subject.examples, SAMPLES), parameters)


class AutoLength:
    """Measures the loss that decides, keeps the best state, and knows when a training ends.

    validation: what is measured. curve: step and loss of each measurement, the first of them the
    base's. best: the parameters of the lowest.
    """

    def __init__(self, validation: FixedNoise, parameters: dict[str, Tensor]) -> None:
        self.validation, self.parameters = validation, parameters
        self.curve: list[tuple[int, float]] = []
        self.best: dict[str, Tensor] = {}

    @property
    def settled(self) -> bool:
        """Whether the loss has stopped falling."""
        return settled([loss for _, loss in self.curve])

    @property
    def lowest(self) -> tuple[int, float]:
        """Step and loss of the best state; the base's where nothing was measured since."""
        return min(self.curve[1:] or self.curve, key=lambda point: point[1])

    def due(self, step: int) -> bool:
        """Whether it is time to measure again."""
        last = self.curve[-1][0]
        return step >= last + max(EVERY, last // GROWTH)

    def measure(self, model: nn.Module, step: int) -> float:
        """Measure the state after `step` steps, and keep it if it is the best."""
        loss = self.validation.loss(model)
        self.curve.append((step, loss if math.isfinite(loss) else math.inf))
        if self.lowest[0] == step:
            self.best = snapshot(self.parameters)
        return loss

    def restore_best(self) -> int:
        """Go back to the best state; returns its step."""
        restore(self.parameters, self.best)
        return self.lowest[0]

    def summary(self, last: int) -> str:
        """A sentence on how a training of `last` steps went."""
        (step, loss), (_, base) = self.lowest, self.curve[0]
        text = (
            f"The loss at fixed noise was lowest at step {step:,} of {last:,} ({base:.4f} -> "
            f"{loss:.4f}), and the file holds that state."
        )
        if len(self.curve) > 2 and step == self.curve[1][0]:
            text += " So early, it may not look like the subject yet: try a number of steps then."
        return text

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint stores of it: tensors and settings."""
        return {BEST + name: value for name, value in self.best.items()}, {"curve": self.curve}

    def load_state(self, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.curve = [(step, loss) for step, loss in settings["curve"]]
        device = next(iter(self.parameters.values())).device
        kept = {n.removeprefix(BEST): t for n, t in tensors.items() if n.startswith(BEST)}
        self.best = {name: tensor.to(device) for name, tensor in kept.items()}
