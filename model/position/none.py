"""No positional encoding."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..context import Tables
from ..contracts import Architecture, Position


class NoEncoding(nn.Module):
    def forward(self, h_btd: Tensor, start: int) -> tuple[Tensor, Tables]:
        return h_btd, ()


class NoPosition(Position):
    """Only the causal mask tells the order."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "only the causal mask tells the order"
    paper: ClassVar[str] = "The Impact of Positional Encoding on Length Generalization, arXiv 2305.19466"
    equations: ClassVar[str] = "h_0 = E[token]"
    deviations: ClassVar[str] = "none"
    neutral: ClassVar[str] = "None: rope rotates for every base."

    def build(self, config: Architecture) -> NoEncoding:
        return NoEncoding()
