"""Differential attention, version 1."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from ..cache import LayerCache
from ..context import Context
from ..contracts import Architecture, Neutral
from ..errors import ConfigError
from ..numerics import upcast
from ..parameters import Spec
from .heads import HeadAttention
from .layer import HeadLayer
from .maps import HeadNorm, MapLayer, build_head_norm, choose_head_norm, count_head_norm, fuse_maps


def lambda_init_at(layer: int) -> float:
    """Return 0.8 - 0.6 exp(-0.3 l), l the 0-based layer (arXiv 2410.05258, section 2.1, where l counts from 1)."""
    return 0.8 - 0.6 * math.exp(-0.3 * layer)


class DifferentialLayer(MapLayer):
    def __init__(self, config: Architecture, knobs: DifferentialAttention, layer: int) -> None:
        super().__init__(config, knobs, layer)
        self.n_signals = config.n_heads // knobs.noise_heads(config)
        spec = Spec("vector", std=knobs.lambda_std)
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            self.declare(name, (self.qk_width,), spec)
        lambda_init = lambda_init_at(layer) if knobs.lambda_init == "depth" else knobs.lambda_init
        # tensors, not numbers, so that layers of different depth share one compiled graph
        self.register_buffer("lambda_init", torch.tensor(lambda_init, dtype=torch.float64), persistent=False)
        factor = 1 - lambda_init if knobs.has_output_scale else 1.0
        self.register_buffer("output_scale", torch.tensor(factor, dtype=torch.float64), persistent=False)
        self.head_norm = build_head_norm(knobs.head_norm, self.v_width)

    lambda_q1: Tensor
    lambda_k1: Tensor
    lambda_q2: Tensor
    lambda_k2: Tensor
    lambda_init: Tensor
    output_scale: Tensor

    def pair(self, heads: Tensor) -> Tensor:
        """Rearrange heads from (n_noise_heads, signals and their noise) to (n_heads, signal and noise)."""
        if self.n_signals == 1:
            return heads
        groups = torch.unflatten(heads, 2, (-1, self.n_signals + 1))
        signal, noise = groups[:, :, :, :-1], groups[:, :, :, -1:]
        return torch.stack((signal, noise.expand_as(signal)), dim=4).flatten(2, 4)

    def lambda_now(self) -> Tensor:
        """Compute exp(l_q1 . l_k1) - exp(l_q2 . l_k2) + lambda_init, one scalar per layer (equation 2)."""
        first = (self.lambda_q1 * self.lambda_k1).sum().exp()
        return first - (self.lambda_q2 * self.lambda_k2).sum().exp() + self.lambda_init

    def map_weights(self, x_btd: Tensor) -> Tensor:
        lambda_now = self.lambda_now()
        return torch.stack((torch.ones_like(lambda_now), -lambda_now))

    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor:
        out_bthmv = self.call_maps(self.pair(q_bthk), self.pair(k_bshk), v_bshv, 2, context)
        if self.can_fuse(out_bthmv, self.head_norm):
            return fuse_maps(out_bthmv, self.map_weights(x_btd), self.head_norm, self.output_scale)
        signal_bthv, noise_bthv = upcast(out_bthmv).unbind(3)
        normed: Tensor = self.head_norm(signal_bthv - self.lambda_now() * noise_bthv)
        return normed * self.output_scale

    def diagnostics(self) -> dict[str, Tensor]:
        return {"lambda": self.lambda_now()}


class DifferentialAttention(HeadAttention):
    """The difference of two softmax maps on shared values of twice their width."""

    name: ClassVar[str] = "differential"
    summary: ClassVar[str] = "the difference of two softmax maps, with a learned lambda per layer and a norm per head"
    paper: ClassVar[str] = "Differential Transformer, arXiv 2410.05258; grouped: 2510.06949"
    equations: ClassVar[str] = (
        "out = (softmax(Q1 K1^T / sqrt(k)) - lambda softmax(Q2 K2^T / sqrt(k))) V; lambda = exp(l_q1 . l_k1) - "
        "exp(l_q2 . l_k2) + lambda_init (1, 2); heads <- (1 - lambda_init) RMSNorm(out) (3); "
        "grouped: signal map h takes noise map h // (n_heads / n_noise_heads)"
    )
    deviations: ClassVar[str] = (
        "both maps run as heads of one call and are subtracted after V; inside nGPT the queries and keys of each map "
        "are normalized and scaled by s_qk, and the head norm has no gain"
    )
    neutral: ClassVar[str] = (
        "lambda 0 (lambda_init 0, lambda vectors 0), no head norm and no output scale: only the first map."
    )
    neutral_point: ClassVar[Neutral | None] = Neutral(
        knobs={"lambda_init": 0.0, "head_norm": "none", "has_output_scale": False},
        zeros=("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"),
        query_every=2,
        key_every=2,
    )

    n_noise_heads: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="number of noise maps; if fewer than n_heads, n_heads / n_noise_heads signal maps share one",
    )
    lambda_init: Annotated[float, Field(ge=-100, le=100)] | Literal["depth"] = Field(
        default="depth", description="0.8 - 0.6 exp(-0.3 layer), or a constant"
    )
    lambda_std: float = Field(
        default=0.1, ge=0.0, le=100.0, description="initial standard deviation of the lambda vectors"
    )
    head_norm: HeadNorm = Field(
        default="auto", description="norm of each head's output; auto is rms, or l2 inside nGPT"
    )
    has_output_scale: bool = Field(default=True, description="multiply the normalized heads by 1 - lambda_init")

    def noise_heads(self, config: Architecture) -> int:
        return self.n_noise_heads or config.n_heads

    def query_heads(self, config: Architecture) -> int:
        return config.n_heads + self.noise_heads(config)

    def key_heads(self, config: Architecture) -> int:
        return self.kv_heads(config) + min(self.kv_heads(config), self.noise_heads(config))

    def called_heads(self, config: Architecture) -> int:
        return 2 * config.n_heads

    def default_qk_width(self, config: Architecture) -> int:
        return config.d_model // self.query_heads(config) // 2 * 2

    def num_extra_params(self, config: Architecture) -> int:
        return 4 * self.qk_width(config) + count_head_norm(self.head_norm, config.head_dim)

    def resolve(self, config: Architecture) -> Self:
        head_norm = choose_head_norm(self.head_norm, config.normalization.has_unit_stream)
        own = {"head_norm": head_norm, "n_noise_heads": self.noise_heads(config)}
        return super().resolve(config).model_copy(update=own)

    def check(self, config: Architecture) -> None:
        super().check(config)
        n_heads, n_noise = config.n_heads, self.noise_heads(config)
        if n_heads % n_noise:
            divisors = [n for n in range(1, n_heads + 1) if n_heads % n == 0]
            raise ConfigError("attention.n_noise_heads", f"must divide n_heads = {n_heads}", divisors)
        if n_noise < n_heads and self.kv_heads(config) < n_heads:
            raise ConfigError(
                "attention.n_noise_heads", "shared noise heads need as many key and value heads as n_heads", [n_heads]
            )

    def idle(self, config: Architecture) -> dict[str, str]:
        found = super().idle(config)
        if config.normalization.has_unit_stream and not config.bias:
            found["has_output_scale"] = "its factor cancels because the sub-layer's output is normalized"
        return found

    def notices(self, config: Architecture) -> tuple[str, ...]:
        is_stuck = (
            "lambda stays at lambda_init: with lambda_std 0 the lambda vectors start at 0, where they have no gradient",
        )
        cancels = self.has_output_scale and config.normalization.has_scale_free_writes and not config.bias
        where = "nGPT" if config.normalization.name == "ngpt" else config.normalization.name
        own = (f"(1 - lambda_init) cancels inside {where}: the sub-layer's output is normalized",) if cancels else ()
        return (*super().notices(config), *own, *(is_stuck if self.lambda_std == 0 else ()))

    def build(self, config: Architecture, layer: int) -> HeadLayer:
        return DifferentialLayer(config, self, layer)
