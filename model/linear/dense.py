"""The ordinary linear layer."""

from __future__ import annotations

from typing import ClassVar

from ..contracts import Architecture, Linear, Neutral
from ..layers import LinearLayer


class Dense(Linear):
    """The ordinary matrix product."""

    name: ClassVar[str] = "dense"
    summary: ClassVar[str] = "x W^T (+ b)"
    paper: ClassVar[str] = "none: the baseline"
    equations: ClassVar[str] = "y = x W^T + b, b only with `bias`"
    deviations: ClassVar[str] = "none"
    neutral: ClassVar[str] = "It is the baseline."
    neutral_point: ClassVar[Neutral | None] = Neutral()

    def build(self, config: Architecture, shape: tuple[int, int], axis: int, std: float) -> LinearLayer:
        return LinearLayer(config, shape, axis, std)
