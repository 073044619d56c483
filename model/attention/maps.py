"""Attentions with several maps per value head: one kernel call, the sum of the maps, the norm of each head's output."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from ..context import Context
from ..contracts import Architecture
from ..kernels.unit_vectors import unit
from ..normalization.norms import RMSNorm
from ..numerics import is_fusible
from ..parameters import SpecModule
from .heads import HeadAttention
from .layer import HeadLayer

HeadNorm = Literal["auto", "rms", "l2", "none"]
EPS = 1e-5  # that of the Diff Transformer's sub-layer norm


class L2HeadNorm(SpecModule):
    """sqrt(v) * x / ||x||: RMSNorm without gain and eps."""

    def forward(self, x_bthv: Tensor) -> Tensor:
        return unit(x_bthv) * math.sqrt(x_bthv.shape[-1])


def choose_head_norm(kind: HeadNorm, has_unit_stream: bool) -> HeadNorm:
    """Resolve "auto": rms with a gain (v,) that the heads share, or, on the unit sphere, l2 without a gain."""
    if kind == "auto":
        return "l2" if has_unit_stream else "rms"
    return kind


def build_head_norm(kind: HeadNorm, width: int) -> nn.Module:
    """Build the norm of a head's output at one token. A norm over time would leak the future."""
    match kind:
        case "rms":
            return RMSNorm(width, EPS)
        case "l2":
            return L2HeadNorm()
        case _:
            return nn.Identity()


def count_head_norm(kind: HeadNorm, width: int) -> int:
    return width if kind == "rms" else 0


class MapLayer(HeadLayer):
    """Several maps per value head, summed with weights, and a norm per head."""

    def __init__(self, config: Architecture, knobs: HeadAttention, layer: int) -> None:
        super().__init__(config, knobs, layer)
        self.output_rounds = not config.linear.has_input_norm

    @abstractmethod
    def map_weights(self, x_btd: Tensor) -> Tensor:
        """Compute the weights of each head's maps, which broadcast to (b, t, h, m)."""

    def call_maps(self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, n_maps: int, context: Context) -> Tensor:
        """Compute several maps per value head in one kernel call: outputs (b, t, n_heads, m, v).

        Queries are laid out (n_heads, m) and keys (n_kv_heads, m), so the maps of a head are neighbors. They share the
        values of their head. Maps combine afterwards: (sum_i w_i A_i) V = sum_i w_i (A_i V).
        """
        n_groups, n_rep = self.n_kv_heads, self.n_heads // self.n_kv_heads
        if n_rep > 1:  # the kernel pairs neighboring queries with one key head
            b, t, _, k = q_bthk.shape
            q_bthk = q_bthk.view(b, t, n_groups, n_rep, n_maps, k).transpose(3, 4).flatten(2, 4)
        v_bshv = v_bshv.unsqueeze(3).expand(-1, -1, -1, n_maps, -1).flatten(2, 3)
        out_bthv = self.call(q_bthk, k_bshk, v_bshv, context)
        b, t, _, v = out_bthv.shape
        return out_bthv.reshape(b, t, n_groups, n_maps, n_rep, v).transpose(3, 4).flatten(2, 3)

    def group_maps(self, maps_bhts: Tensor) -> Tensor:
        """Rearrange the maps of `call_maps` to (b, n_heads, m, t, s)."""
        n_rep = self.n_heads // self.n_kv_heads
        groups = torch.unflatten(maps_bhts, 1, (self.n_kv_heads, -1, n_rep))
        return groups.transpose(2, 3).flatten(1, 2)

    def combine_maps(self, maps_bhts: Tensor, x_btd: Tensor) -> Tensor:
        """Turn the maps of the kernel call into the effective map of each value head (b, n_heads, t, s).

        That is the map that multiplies the values, before any norm, gate or factor of the head's output. x (b, t, d)
        is the layer's input at the queries.
        """
        maps_bhmts = self.group_maps(maps_bhts)
        b, h, m, t, _ = maps_bhmts.shape
        weights_bthm = self.map_weights(x_btd).expand(b, t, h, m).to(maps_bhts.dtype)
        return torch.einsum("bhmts,bthm->bhts", maps_bhmts, weights_bthm)

    def can_fuse(self, out_bthmv: Tensor, norm: nn.Module) -> bool:
        """Whether `fuse_maps` takes these maps. Its kernel rounds to their type.

        The output layer rounds to the same type, unless it first normalizes or quantizes.
        """
        return self.output_rounds and is_fusible(out_bthmv) and isinstance(norm, L2HeadNorm | nn.Identity)


def fuse_maps(out_bthmv: Tensor, weights: Tensor, norm: nn.Module, gain: Tensor | None = None) -> Tensor:
    """Compute gain * norm(sum_m w_m out_m) in one pass (b, t, h, v), in the maps' type.

    Weights broadcast to (b, t, h, m). The gain gets no gradient.
    """
    from ..kernels.fused.map_sum import sum_maps

    return sum_maps(out_bthmv, weights, gain, isinstance(norm, L2HeadNorm))
