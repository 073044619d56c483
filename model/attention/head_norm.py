"""Norms of the outputs of single heads, at one token: never over time, which would leak the future."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from ..declared import Declared
from ..normalization.norms import RMSNorm
from ..numerics import unit

HeadNorm = Literal["auto", "rms", "l2", "none"]
EPS = 1e-5  # that of the Diff Transformer's sub-layer norm


class L2HeadNorm(Declared):
    """sqrt(v) * x / ||x||: RMSNorm without gain and eps."""

    def forward(self, x_bthv: Tensor) -> Tensor:
        return unit(x_bthv) * math.sqrt(x_bthv.shape[-1])


def choose_head_norm(kind: HeadNorm, has_unit_stream: bool) -> HeadNorm:
    """What "auto" means: rms with a gain (v,) shared by the heads; on the unit sphere l2 without one."""
    if kind == "auto":
        return "l2" if has_unit_stream else "rms"
    return kind


def build_head_norm(kind: HeadNorm, width: int) -> nn.Module:
    match kind:
        case "rms":
            return RMSNorm(width, EPS)
        case "l2":
            return L2HeadNorm()
        case _:
            return nn.Identity()


def count_head_norm(kind: HeadNorm, width: int) -> int:
    return width if kind == "rms" else 0
