"""The ordinary linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..variant import Neutral
from .base import Linear, LinearLayer

if TYPE_CHECKING:
    from ..config import ModelConfig


class Dense(Linear):
    """The ordinary matrix product."""

    name: ClassVar[str] = "dense"
    summary: ClassVar[str] = "x W^T (+ b)"
    paper: ClassVar[str] = "none: the baseline"
    equations: ClassVar[str] = "y = x W^T + b, b only with `bias`"
    deviations: ClassVar[str] = "none"
    neutral: ClassVar[str] = "It is the baseline."
    neutral_point: ClassVar[Neutral | None] = Neutral()

    @property
    def has_input_norm(self) -> bool:
        return False

    def build(self, config: ModelConfig, shape: tuple[int, int], axis: int, std: float) -> LinearLayer:
        return LinearLayer(config, shape, axis, std)
