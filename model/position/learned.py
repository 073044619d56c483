"""Learned absolute positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..linear.base import Embedding
from .base import Position, PositionEncoding

if TYPE_CHECKING:
    from ..config import ModelConfig


class LearnedEncoding(PositionEncoding):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = Embedding(config, config.context_length)

    def embed(self, start: int, length: int) -> Tensor | None:
        """Raises ValueError beyond the last learned position."""
        n_positions = self.table.weight.shape[0]
        if start + length > n_positions:
            raise ValueError(f"learned positions end at {n_positions}; {start + length} tokens are too many")
        vectors_td: Tensor = self.table(torch.arange(start, start + length, device=self.table.weight.device))
        return vectors_td


class Learned(Position):
    """One learned vector a position, added to the token's."""

    name: ClassVar[str] = "learned"
    summary: ClassVar[str] = "one learned vector a position, added to the token's"
    paper: ClassVar[str] = "GPT-2 (Radford et al., 2019)"
    equations: ClassVar[str] = "h_0 = E[token] + P[position]; inside nGPT Norm(E + P) with unit rows"
    deviations: ClassVar[str] = "inside nGPT as nViT does: unit rows, and the sum normalised"
    neutral: ClassVar[str] = "None: without vectors it is `none`, not rope."

    def num_params(self, config: ModelConfig) -> int:
        return config.context_length * config.d_model

    def build(self, config: ModelConfig) -> PositionEncoding:
        return LearnedEncoding(config)
