"""Learned absolute positions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..context import Tables
from ..contracts import Architecture, Position
from ..layers import Embedding
from ..parameters import SpecModule


class LearnedEncoding(SpecModule):
    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.table = Embedding(config, config.context_length)
        self.constrain = config.normalization.constrain

    def forward(self, h_btd: Tensor, start: int) -> tuple[Tensor, Tables]:
        """Add the vectors of the positions. Raises ValueError beyond the last learned position."""
        n_positions, end = self.table.weight.shape[0], start + h_btd.shape[1]
        if end > n_positions:
            raise ValueError(f"learned positions end at {n_positions}; {end} tokens are too many")
        return self.constrain(h_btd + self.table(torch.arange(start, end, device=h_btd.device))), ()


class Learned(Position):
    """One learned vector per position, added to the token's."""

    name: ClassVar[str] = "learned"
    summary: ClassVar[str] = "one learned vector per position, added to the token's"
    paper: ClassVar[str] = "GPT-2 (Radford et al., 2019)"
    equations: ClassVar[str] = "h_0 = E[token] + P[position]; inside nGPT Norm(E + P) with unit rows"
    deviations: ClassVar[str] = "inside nGPT as in nViT: unit rows, and the sum is normalized"
    neutral: ClassVar[str] = "None: with all vectors 0 it equals `none`, not rope."

    def num_params(self, config: Architecture) -> int:
        return config.context_length * config.d_model

    def build(self, config: Architecture) -> LearnedEncoding:
        return LearnedEncoding(config)
