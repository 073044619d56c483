"""No positional encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from .base import Position, PositionEncoding

if TYPE_CHECKING:
    from ..config import ModelConfig


class NoPosition(Position):
    """Order is known from the causal mask alone."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "order is known from the causal mask alone"
    paper: ClassVar[str] = "The Impact of Positional Encoding on Length Generalization, arXiv 2305.19466"
    equations: ClassVar[str] = "h_0 = E[token]"
    deviations: ClassVar[str] = "none"
    neutral: ClassVar[str] = "None: rope rotates for every base."

    def num_params(self, config: ModelConfig) -> int:
        return 0

    def build(self, config: ModelConfig) -> PositionEncoding:
        return PositionEncoding()
