"""The rotation of query and key features by their positions."""

from __future__ import annotations

import torch
from torch import Tensor

from ..context import Tables
from ..numerics import upcast
from ..parameters import SpecModule


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
