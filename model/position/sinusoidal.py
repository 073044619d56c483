"""Sinusoidal absolute positions."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from ..context import Tables
from ..contracts import Architecture, Position
from ..parameters import SpecModule


class SinusoidalEncoding(SpecModule):
    def __init__(self, config: Architecture, base: float, embedding_scale: float) -> None:
        super().__init__()
        self.base, self.embedding_scale = base, embedding_scale
        self.is_on_sphere, self.constrain = config.normalization.has_unit_stream, config.normalization.constrain

    def forward(self, h_btd: Tensor, start: int) -> tuple[Tensor, Tables]:
        """Add the waves of the positions."""
        length, width = h_btd.shape[-2:]
        positions_t = torch.arange(start, start + length, device=h_btd.device, dtype=torch.float64)
        exponents = torch.arange(0, width, 2, device=h_btd.device, dtype=torch.float64) / width
        angles = positions_t[:, None] * self.base**-exponents
        waves_td = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]
        waves_td = (self.constrain(waves_td) if self.is_on_sphere else waves_td).to(h_btd.dtype)
        return self.constrain(self.embedding_scale * h_btd + waves_td), ()


class Sinusoidal(Position):
    """Fixed sines and cosines of the position, added to the token's vector."""

    name: ClassVar[str] = "sinusoidal"
    summary: ClassVar[str] = "sines and cosines of the position, added to the token's vector"
    paper: ClassVar[str] = "Attention Is All You Need, arXiv 1706.03762, section 3.5"
    equations: ClassVar[str] = (
        "h_0 = sqrt(d) E[token] + P; P[p, 2i] = sin(p base^(-2i/d)), P[p, 2i+1] = cos(p base^(-2i/d))"
    )
    deviations: ClassVar[str] = "inside nGPT Norm(E + Norm(P)), because both are then unit vectors"
    neutral: ClassVar[str] = "None: the waves are never 0."

    base: float = Field(default=10000.0, gt=1.0, le=1e15, description="wavelengths grow from 2 pi to 2 pi base")
    embedding_scale: float | None = Field(
        default=None, gt=0.0, le=1e6, description="factor of the embedding; null is sqrt(d_model), or 1 inside nGPT"
    )

    def resolve(self, config: Architecture) -> Self:
        usual = 1.0 if config.normalization.has_unit_stream else math.sqrt(config.d_model)
        return self if self.embedding_scale else self.model_copy(update={"embedding_scale": usual})

    def idle(self, config: Architecture) -> dict[str, str]:
        return {"base": "two features have one wavelength, which no base changes"} if config.d_model <= 2 else {}

    def build(self, config: Architecture) -> SinusoidalEncoding:
        assert self.embedding_scale is not None  # resolved
        return SinusoidalEncoding(config, self.base, self.embedding_scale)
