"""Rotary position embedding."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from ..context import Tables
from ..contracts import NO_ATTENTION, Architecture, Neutral, Position
from ..errors import ConfigError
from ..numerics import upcast
from ..parameters import SpecModule
from ..residual import Rotate


def rotate_pairs(x_bthk: Tensor, tables: Tables) -> Tensor:
    """Rotate the adjacent pairs (x[2j], x[2j+1]) of a (b, t, h, k) tensor by the angles of its positions.

    Without a stack of the halves, because a compiler would compute both halves for each of its entries.
    """
    cos_t1k, sin_t1k = tables
    x_bthk = upcast(x_bthk)
    return x_bthk * cos_t1k + torch.unflatten(x_bthk, -1, (-1, 2)).flip(-1).flatten(-2) * sin_t1k


class RopeEncoding(SpecModule):
    def __init__(self, base: float, width: int) -> None:
        super().__init__()
        self.base, self.width = base, width

    def forward(self, h_btd: Tensor, start: int) -> tuple[Tensor, Tables]:
        return h_btd, self.tables(start, h_btd.shape[1], h_btd.device, torch.promote_types(h_btd.dtype, torch.float32))

    def tables(self, start: int, length: int, device: torch.device, dtype: torch.dtype) -> Tables:
        """Compute cos(a), cos(a), ... and -sin(a), sin(a), ... of a = p * base^(-2j / width): (length, 1, width).

        Angles are float64, because at position 10^5 a float32 product is wrong in the third decimal.
        """
        positions_t = torch.arange(start, start + length, device=device, dtype=torch.float64)
        exponents_k = torch.arange(0, self.width, 2, device=device, dtype=torch.float64) / self.width
        angles_t1k = (positions_t[:, None] * self.base**-exponents_k)[:, None, :]
        cos, sin = angles_t1k.cos().to(dtype), angles_t1k.sin().to(dtype)
        return cos.repeat_interleave(2, dim=-1), torch.stack((-sin, sin), dim=-1).flatten(-2)


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
