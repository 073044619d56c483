"""Differential attention, version 2."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..cache import LayerCache
from ..context import Context
from ..contracts import Architecture, Neutral
from ..numerics import upcast
from .gate import Gate
from .heads import HeadAttention
from .layer import HeadLayer
from .maps import MapLayer, build_head_norm, fuse_maps


class DifferentialV2Layer(MapLayer):
    def __init__(self, config: Architecture, knobs: DifferentialV2Attention, layer: int) -> None:
        super().__init__(config, knobs, layer)
        self.kind = knobs.lambda_gate
        self.gate = None if knobs.lambda_gate == "one" else Gate(config, config.n_heads)
        self.head_norm = build_head_norm("none", self.v_width)

    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor:
        out_bthv = self.call(q_bthk, k_bshk, v_bshv, context)
        if self.can_fuse(out_bthv, self.head_norm):
            return fuse_maps(torch.unflatten(out_bthv, 2, (-1, 2)), self.map_weights(x_btd), self.head_norm)
        out_bthv = upcast(out_bthv)
        return out_bthv[:, :, 0::2] - self.lambda_now(x_btd)[..., None] * out_bthv[:, :, 1::2]

    def map_weights(self, x_btd: Tensor) -> Tensor:
        lambda_bth = self.lambda_now(x_btd)
        return torch.stack((torch.ones_like(lambda_bth), -lambda_bth), -1)

    def group_maps(self, maps_bhts: Tensor) -> Tensor:
        return torch.unflatten(maps_bhts, 1, (-1, 2))  # neighboring heads are a pair, however many keys they share

    def lambda_now(self, x_btd: Tensor) -> Tensor:
        """Compute the factor of the second map of each pair: (b, t, h), or one number (1,)."""
        if self.gate is None:
            return x_btd.new_ones(1, dtype=torch.promote_types(x_btd.dtype, torch.float32))
        raw_bth: Tensor = upcast(self.gate(x_btd))
        return raw_bth.sigmoid() if self.kind == "sigmoid" else raw_bth


class DifferentialV2Attention(HeadAttention):
    """Twice the query heads on the same keys and values; neighbors are subtracted, with a lambda per token and head."""

    name: ClassVar[str] = "differential_v2"
    summary: ClassVar[str] = "2 n_heads query heads; neighbors are subtracted, with a lambda per token and head"
    paper: ClassVar[str] = "Diff Transformer V2, microsoft/unilm, blog of 20 January 2026"
    equations: ClassVar[str] = (
        "out_i = attn_2i - sigmoid(x W_lambda)_i attn_2i+1; heads 2i and 2i+1 share keys and values"
    )
    deviations: ClassVar[str] = (
        "W_lambda starts like the model's other weights; inside nGPT it is exempt from weight normalization"
    )
    neutral: ClassVar[str] = "lambda_gate free with W_lambda = 0: only the even heads."
    neutral_point: ClassVar[Neutral | None] = Neutral(knobs={"lambda_gate": "free"}, zeros=("gate",), query_every=2)

    lambda_gate: Literal["sigmoid", "free", "one"] = Field(
        default="sigmoid", description="sigmoid of the projection, the projection itself, or 1 without a projection"
    )

    def query_heads(self, config: Architecture) -> int:
        return 2 * config.n_heads

    def key_heads(self, config: Architecture) -> int:
        return self.kv_heads(config)

    def num_extra_params(self, config: Architecture) -> int:
        return 0 if self.lambda_gate == "one" else config.d_model * config.n_heads

    def extra_flops(self, config: Architecture, visible: float) -> float:
        return 2 * self.num_extra_params(config)

    def build(self, config: Architecture, layer: int) -> HeadLayer:
        return DifferentialV2Layer(config, self, layer)
