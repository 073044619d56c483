"""The faulty rotary function of the public nGPT code, for comparisons with its curves."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..context import Tables
from ..contracts import Architecture, Position
from ..errors import ConfigError
from ..numerics import upcast
from ..residual import Rotate
from .rotation import RopeEncoding

BASE = 10000.0


def swap_pairs(x_bthk: Tensor, tables: Tables) -> Tensor:
    """out[2j] = -x[2j+1] b_j; out[2j+1] = x[2j] a_j. Not a rotation: norms and relative positions are lost."""
    a_t1k, b_t1k = tables
    even, odd = torch.unflatten(upcast(x_bthk), -1, (-1, 2)).unbind(-1)
    return torch.stack((-odd * b_t1k, even * a_t1k), dim=-1).flatten(-2)


class ReferenceEncoding(RopeEncoding):
    def tables(self, start: int, length: int, device: torch.device, dtype: torch.dtype) -> Tables:
        """The halves a and b of a table with sin(p w_j) in even, cos(p w_j) in odd columns, each (length, 1, k / 2)."""
        positions_t = torch.arange(start, start + length, device=device, dtype=torch.float64)
        exponents_k = torch.arange(0, self.width, 2, device=device, dtype=torch.float64) / self.width
        angles_tk = positions_t[:, None] * self.base**-exponents_k
        table_tk = torch.stack((angles_tk.sin(), angles_tk.cos()), dim=-1).flatten(1).to(dtype)
        a_tk, b_tk = table_tk.chunk(2, dim=-1)
        return a_tk[:, None], b_tk[:, None]


class NGPTReference(Position):
    """The encoding behind the public nGPT curves. Use it only to compare with them."""

    name: ClassVar[str] = "ngpt_reference"
    summary: ClassVar[str] = (
        "the rotary function of the public nGPT code, which does not rotate; only to compare with its curves"
    )
    paper: ClassVar[str] = "NVIDIA/ngpt at ed19eb2; the paper's own code differs"
    equations: ClassVar[str] = (
        "out[2j] = -x[2j+1] b_j; out[2j+1] = x[2j] a_j; a, b halves of a table sin, cos, sin, cos, ..."
    )
    deviations: ClassVar[str] = "none; the fault is reproduced"
    neutral: ClassVar[str] = "None: it has no knob and is not a rotation."

    def check(self, config: Architecture) -> None:
        width = config.attention.qk_width(config)
        if width % 2:
            raise ConfigError("n_heads", f"ngpt_reference takes pairs, but the width of a query head is {width}")

    def build(self, config: Architecture) -> RopeEncoding:
        return ReferenceEncoding(BASE, config.attention.qk_width(config))

    @property
    def rotate(self) -> Rotate:
        return swap_pairs
