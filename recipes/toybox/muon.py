"""Optimizers of the recipe: Muon for hidden weights, AdamW for the rest.

Muon (Keller Jordan, kellerjordan.github.io/posts/muon): the momentum of a weight, seen as a
matrix (out, rest), is replaced by its nearest orthogonal matrix, found by Newton-Schulz steps.
"""

from __future__ import annotations

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(matrix: torch.Tensor, steps: int = 4) -> torch.Tensor:
    """Approximate U V^T of a matrix (m, n) = U S V^T.

    All steps are polynomials of the small Gram matrix, so the long side enters only twice.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    eye = torch.eye(len(gram), device=gram.device)
    whole = eye
    for step in range(steps):
        factor = torch.addmm(a * eye + b * gram, gram, gram, alpha=c)
        whole = factor if step == 0 else factor @ whole
        if step + 1 < steps:
            gram = factor @ gram @ factor
    result = whole @ wide
    return result.T if matrix.shape[0] > matrix.shape[1] else result


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay."""

    def __init__(self, weights, lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "average" not in state:
                    state["average"] = torch.zeros_like(weight)
                average = state["average"].lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(average, group["momentum"]).flatten(1)
                size = max(1, update.shape[0] / update.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["decay"])
                update = orthogonal(update).view_as(weight)
                weight.add_(update, alpha=-group["lr"] * size)


class Optimizers:
    """Muon (or AdamW, if muon_lr is 0) for hidden weights; AdamW for everything else.

    Everything else: norms, biases, embeddings and the ends of a network, named by `ends`.
    """

    def __init__(self, models: list, lr: float, muon_lr: float, ends: tuple[str, ...]) -> None:
        hidden, rest = [], []
        for model in models:
            for name, weight in model.named_parameters():
                matrix = weight.ndim >= 2 and not any(end in name for end in ends)
                (hidden if matrix and muon_lr else rest).append(weight)
        self.parts = [torch.optim.AdamW(rest, lr, (0.9, 0.98), weight_decay=0.01, fused=True)]
        if hidden:
            self.parts.append(Muon(hidden, muon_lr))
        self.peaks = [lr, muon_lr]

    def step(self, rate: float) -> None:
        """Step at a share of the full learning rates and clear the gradients."""
        for part, peak in zip(self.parts, self.peaks, strict=False):
            for group in part.param_groups:
                group["lr"] = peak * rate
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict]) -> None:
        if len(states) != len(self.parts):
            raise ValueError("The checkpoint was trained with another optimizer; give the same.")
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
