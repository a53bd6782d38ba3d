"""Where the points of a training's loss curve lie in its SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, MARGIN = 480, 120, 6  # in units of the SVG

Points = list[tuple[float, float]]  # x, y in units of the SVG


@dataclass(frozen=True)
class LossCurve:
    """lines: of each step (smoothed), and on fixed noise. lowest, highest: of all losses."""

    lines: dict[str, Points]
    lowest: float
    highest: float
    width: int = WIDTH
    height: int = HEIGHT


def loss_curve(status: Mapping[str, Any]) -> LossCurve | None:
    """The curve of a training's status; None before its second step.

    While it is training, the axis has room for all its steps.
    """
    lines = {"steps": status.get("losses", []), "fixed_noise": status.get("fixed_noise", [])}
    if len(lines["steps"]) < 2:
        return None
    losses = [loss for points in lines.values() for _, loss in points]
    lowest, highest = min(losses), max(losses)
    last = max(2, *(step for points in lines.values() for step, _ in points))
    if status.get("state") == "training":
        last = max(last, status.get("steps") or 2)

    def place(point: Sequence[float]) -> tuple[float, float]:
        step, loss = point
        height = (loss - lowest) / ((highest - lowest) or 1) * (HEIGHT - 2 * MARGIN)
        return max(0, step - 1) / (last - 1) * WIDTH, HEIGHT - MARGIN - height

    placed = {name: [place(point) for point in points] for name, points in lines.items()}
    return LossCurve(placed, lowest, highest)
