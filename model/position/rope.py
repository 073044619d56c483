"""Rotary position embedding."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from ..contracts import NO_ATTENTION, Architecture, Neutral, Position
from ..errors import ConfigError
from ..residual import Rotate
from .rotation import RopeEncoding, rotate_pairs


class Rope(Position):
    """True, interleaved rotary embedding of queries and keys."""

    name: ClassVar[str] = "rope"
    summary: ClassVar[str] = "rotates adjacent pairs of query and key features by angles proportional to the position"
    paper: ClassVar[str] = "RoFormer, arXiv 2104.09864"
    equations: ClassVar[str] = (
        "out[2j] = x[2j] cos a - x[2j+1] sin a; out[2j+1] = x[2j] sin a + x[2j+1] cos a; a = p base^(-2j/k)"
    )
    deviations: ClassVar[str] = "none; float64 angles, float32 tables"
    neutral: ClassVar[str] = "It is the baseline."
    neutral_point: ClassVar[Neutral | None] = Neutral()

    base: float = Field(default=10000.0, gt=1.0, le=1e15, description="wavelengths grow from 2 pi to 2 pi base")

    def check(self, config: Architecture) -> None:
        width = config.attention.qk_width(config)
        if width % 2:
            place = "n_heads" if width == config.attention.default_qk_width(config) else "attention.qk_head_dim"
            raise ConfigError(place, f"rope rotates pairs, but the width of a query head is {width}; make it even")

    def idle(self, config: Architecture) -> dict[str, str]:
        if not config.count_kept("attention"):
            return {"base": NO_ATTENTION}
        is_one_pair = config.attention.qk_width(config) == 2
        return {"base": "a query head of width 2 has one angle, which no base changes"} if is_one_pair else {}

    def build(self, config: Architecture) -> RopeEncoding:
        return RopeEncoding(self.base, config.attention.qk_width(config))

    @property
    def rotate(self) -> Rotate:
        return rotate_pairs
