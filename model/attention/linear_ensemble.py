"""Linear ensemble attention (LET): a weighted sum of several softmax maps on shared values."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from ..cache import LayerCache
from ..context import Context
from ..contracts import Architecture, Neutral
from ..errors import ConfigError
from ..numerics import upcast
from ..parameters import Spec
from .differential import lambda_init_at
from .gate import Gate
from .heads import HeadAttention
from .layer import HeadLayer
from .maps import HeadNorm, MapLayer, build_head_norm, choose_head_norm, count_head_norm, fuse_maps

ALTERNATING = 0.1  # raw weights start at +-0.1, as in the authors' code


class LinearEnsembleLayer(MapLayer):
    def __init__(self, config: Architecture, knobs: LinearEnsembleAttention, layer: int) -> None:
        super().__init__(config, knobs, layer)
        self.num_maps, self.kind = knobs.num_maps, knobs.map_weight
        n_rows = 1 if knobs.scope == "layer" else config.n_heads
        starts = knobs.raw_starts(layer) * n_rows
        # A value that no gradient reaches is a buffer, under the name that it would have as a parameter.
        if knobs.learns_weights(config):
            self.map_raw = self.declare("map_raw", (n_rows * self.num_maps,), Spec("vector", mean=starts))
        else:
            self.register_buffer("map_raw", torch.tensor(starts))
        if knobs.learns_gain(config):
            self.map_gain = self.declare("map_gain", (1,), Spec("vector", mean=1.0))
        else:
            self.register_buffer("map_gain", torch.ones(1) if self.kind == "tanh" else None)
        self.gate = Gate(config, config.n_heads * self.num_maps) if knobs.has_gate(config) else None
        self.head_norm = build_head_norm(knobs.head_norm, self.v_width)

    map_raw: Tensor
    map_gain: Tensor | None

    def map_weights(self, x_btd: Tensor) -> Tensor:
        raw_hm = torch.unflatten(self.map_raw, -1, (-1, self.num_maps))
        if self.gate is not None:
            raw_hm = raw_hm + torch.unflatten(upcast(self.gate(x_btd)), -1, (-1, self.num_maps))
        match self.kind:
            case "tanh":
                assert self.map_gain is not None  # built together with tanh
                return raw_hm.tanh() * self.map_gain
            case "softmax":
                return raw_hm.softmax(-1)
            case _:
                return raw_hm

    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor:
        out_bthmv = self.call_maps(q_bthk, k_bshk, v_bshv, self.num_maps, context)
        weights = self.map_weights(x_btd)
        if self.can_fuse(out_bthmv, self.head_norm):
            return fuse_maps(out_bthmv, weights, self.head_norm)
        normed: Tensor = self.head_norm((upcast(out_bthmv) * weights[..., None]).sum(3))
        return normed

    def diagnostics(self) -> dict[str, Tensor]:
        if self.gate is not None:
            return {}
        means_m = self.map_weights(self.map_raw).view(-1, self.num_maps).mean(0)
        return {f"map_weight_{m}": mean for m, mean in enumerate(means_m)}


class LinearEnsembleAttention(HeadAttention):
    """A weighted sum of num_maps softmax maps per head, on shared values."""

    name: ClassVar[str] = "linear_ensemble"
    summary: ClassVar[str] = "a weighted sum of num_maps softmax maps on shared values, with a norm per head"
    paper: ClassVar[str] = "no paper: himbostradamus/LinearEnsembleAttention (LET), 2025"
    equations: ClassVar[str] = (
        "out = N(sum_i w_i softmax(Q_i K_i^T / sqrt(k)) V) per head; w = tanh(r) g, softmax(r) or r; k = d / (num_maps "
        "n_heads) (split) or d / n_heads (full), rounded down to even"
    )
    deviations: ClassVar[str] = (
        "the public code fails unless num_maps n_heads divides d, mixes heads with positions and normalizes over "
        "time; this variant does none of that; free weights have no gain g; token weights are r + x W"
    )
    neutral: ClassVar[str] = "num_maps 1 with the weight 1 (free, uniform) and no head norm: one softmax map."
    neutral_point: ClassVar[Neutral | None] = Neutral(
        knobs={"num_maps": 1, "map_weight": "free", "map_init": "uniform", "head_norm": "none"}, ones=("map_raw",)
    )

    num_maps: int = Field(default=3, ge=1, le=10_000, description="softmax maps per head")
    width: Literal["split", "full"] = Field(
        default="split",
        description="split: the maps of a head share its width; full: each map has all of it, with more parameters",
    )
    map_init: Literal["alternating", "differential", "uniform"] = Field(
        default="alternating",
        description="initial weights: alternating +0.1 and -0.1; 1, -lambda_init, 0, ...; or 1 / num_maps",
    )
    map_weight: Literal["tanh", "softmax", "free"] = Field(
        default="tanh", description="function from raw values to weights"
    )
    scope: Literal["layer", "head", "token"] = Field(
        default="layer", description="one set of weights per layer, per head, or per token and head by a projection"
    )
    head_norm: HeadNorm = Field(
        default="auto", description="norm of each head's output; auto is rms, or l2 inside nGPT"
    )

    def raw_starts(self, layer: int) -> tuple[float, ...]:
        """Return the initial raw values, one per map."""
        n = self.num_maps
        match self.map_init:
            case "alternating":
                return tuple(ALTERNATING * (-1) ** m for m in range(n))
            case "differential":
                return (1.0, -lambda_init_at(layer), *[0.0] * n)[:n]
            case "uniform":
                raws = {"tanh": math.atanh(1 / n) if n > 1 else math.inf, "softmax": 0.0, "free": 1 / n}
                return (raws[self.map_weight],) * n

    def query_heads(self, config: Architecture) -> int:
        return self.num_maps * config.n_heads

    def key_heads(self, config: Architecture) -> int:
        return self.num_maps * self.kv_heads(config)

    def default_qk_width(self, config: Architecture) -> int:
        return config.head_dim if self.width == "full" else config.d_model // (self.num_maps * config.n_heads) // 2 * 2

    def factor_cancels(self, config: Architecture) -> bool:
        """Whether a common factor of all weights of a layer changes nothing, because a norm without eps follows."""
        is_normed_later = self.head_norm == "none" and config.normalization.has_unit_stream and not config.bias
        return self.head_norm == "l2" or is_normed_later

    def learns_weights(self, config: Architecture) -> bool:
        """Whether the map weights can change anything: the weight of a single map may be 1, or cancel in a norm."""
        is_shared = self.head_norm == "l2" or self.scope == "layer"
        return self.num_maps > 1 or not (self.map_weight == "softmax" or (is_shared and self.factor_cancels(config)))

    def learns_gain(self, config: Architecture) -> bool:
        return self.map_weight == "tanh" and not self.factor_cancels(config)

    def has_gate(self, config: Architecture) -> bool:
        return self.scope == "token" and self.learns_weights(config)

    def num_gate_params(self, config: Architecture) -> int:
        return config.d_model * self.query_heads(config) if self.has_gate(config) else 0

    def num_extra_params(self, config: Architecture) -> int:
        raw = self.num_maps * (1 if self.scope == "layer" else config.n_heads) if self.learns_weights(config) else 0
        gates = self.learns_gain(config) + self.num_gate_params(config)
        return raw + gates + count_head_norm(self.head_norm, config.head_dim)

    def idle(self, config: Architecture) -> dict[str, str]:
        by_hand = self.qk_width(config) != self.default_qk_width(config)
        # Only qk_head_dim counts, which is a number by now. If it follows from `width`, there is nothing to report.
        found = {"width": "qk_head_dim sets the width of a map" if by_hand else "", **super().idle(config)}
        if not self.learns_weights(config):
            why = "a single map has no other map to be weighted against"
            found |= dict.fromkeys(
                ("scope",) if self.map_weight == "softmax" else ("scope", "map_weight", "map_init"), why
            )
        elif config.n_heads == 1 and self.scope != "token":
            found["scope"] = "a layer has one head"
        return found

    def extra_flops(self, config: Architecture, visible: float) -> float:
        return 2 * self.num_gate_params(config)

    def resolve(self, config: Architecture) -> Self:
        head_norm = choose_head_norm(self.head_norm, config.normalization.has_unit_stream)
        return super().resolve(config).model_copy(update={"head_norm": head_norm})

    def check(self, config: Architecture) -> None:
        super().check(config)
        if self.map_weight == "softmax" and self.map_init != "uniform":
            raise ConfigError(
                "attention.map_init", "softmax weights are positive and can only start uniform", ["uniform"]
            )
        if self.map_init == "differential" and self.map_weight != "free":
            why = f"{self.map_weight} weights cannot start at 1, -lambda_init; only free weights can"
            raise ConfigError("attention.map_weight", why, ["free"])
        if self.map_init == "uniform" and self.map_weight == "tanh" and self.num_maps == 1:
            raise ConfigError(
                "attention.map_weight", "tanh never reaches 1, the weight of a single map", ["softmax", "free"]
            )

    def notices(self, config: Architecture) -> tuple[str, ...]:
        cancels = self.head_norm != "none" or (config.normalization.has_scale_free_writes and not config.bias)
        own = ("the common factor of the map weights cancels in the norm that follows",) if cancels else ()
        return (*super().notices(config), *own)

    def build(self, config: Architecture, layer: int) -> HeadLayer:
        return LinearEnsembleLayer(config, self, layer)
