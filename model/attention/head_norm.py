"""Norms of the outputs of single heads, at one token: never over time, which would leak the future."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from ..declared import Declared
from ..kernels.fused import is_fusible
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


def can_fuse_maps(out_bthmv: Tensor, norm: nn.Module) -> bool:
    """Whether there is a kernel for `fuse_maps`."""
    return is_fusible(out_bthmv) and isinstance(norm, L2HeadNorm | nn.Identity)


def fuse_maps(out_bthmv: Tensor, weights: Tensor, norm: nn.Module, gain: Tensor | None = None) -> Tensor:
    """gain * norm(sum_m w_m out_m) in one pass (b, t, h, v), in the maps' type; weights broadcast to (b, t, h, m).

    The gain gets no gradient.
    """
    from ..kernels.fused.map_sum import sum_maps

    return sum_maps(out_bthmv, weights, gain, isinstance(norm, L2HeadNorm))


def count_head_norm(kind: HeadNorm, width: int) -> int:
    return width if kind == "rms" else 0
