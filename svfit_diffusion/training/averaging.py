"""The running average of what is trained, which is what is shown, judged and written.

Each step sees a few photos at a few noise levels, and moves the parameters a little for these
alone. Their average over the last steps, about 1 / (1 - decay) of them, is without that: it is more
alike than the last ones (docs/likeness.md). In a training of t steps, it goes over t^0.75 at most.
"""

from __future__ import annotations

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

AVERAGE = "average."  # before the names in a checkpoint
WARMUP = 0.75  # of diffusers' EMAModel: the decay is at most 1 - (1 + steps)^-WARMUP


class Average:
    """An exponential moving average of named parameters; decay 0: they themselves."""

    def __init__(self, parameters: dict[str, Tensor], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self._start()

    def _start(self) -> None:
        self._model = EMAModel(
            list(self.parameters.values()),
            self.decay,
            use_ema_warmup=True,
            power=WARMUP,
            foreach=True,
        )
        self.remember()

    def step(self) -> None:
        """Count the parameters as they are after a step."""
        if self.decay:
            self._model.step(self.parameters.values())

    def remember(self) -> None:
        """Keep the average as it is: the parameters in it gave a finite loss."""
        if self.decay:
            self._last_finite = [value.clone() for value in self._model.shadow_params]

    def go_back(self) -> None:
        """Restore the average that was kept."""
        if self.decay:
            self._model.shadow_params = self._last_finite

    def values(self) -> dict[str, Tensor]:
        """Name -> average."""
        if not self.decay:
            return {name: parameter.detach() for name, parameter in self.parameters.items()}
        return dict(zip(self.parameters, self._model.shadow_params, strict=True))

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint stores of it."""
        if not self.decay:
            return {}
        return {AVERAGE + name: value for name, value in self.values().items()}

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], step: int) -> None:
        """Go on from what a checkpoint of that step kept; without it, from the parameters."""
        self._start()
        self._model.optimization_step = step
        for name, value in zip(self.parameters, self._model.shadow_params, strict=True):
            if (kept := tensors.get(AVERAGE + name)) is not None:
                value.copy_(kept)
        self.remember()
