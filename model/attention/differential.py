"""Differential attention, version 1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from ..cache import LayerCache
from ..declared import Spec
from ..numerics import upcast
from ..variant import Neutral
from .base import AttentionLayer, Context
from .head_norm import HeadNorm, build_head_norm, choose_head_norm, count_head_norm
from .heads import HeadAttention, HeadLayer

if TYPE_CHECKING:
    from ..config import ModelConfig


def lambda_init_at(layer: int) -> float:
    """0.8 - 0.6 exp(-0.3 l) with l the 0-based layer (arXiv 2410.05258, section 2.1, where l counts from 1)."""
    return 0.8 - 0.6 * math.exp(-0.3 * layer)


class DifferentialLayer(HeadLayer):
    def __init__(self, config: ModelConfig, knobs: DifferentialAttention, layer: int) -> None:
        super().__init__(config, knobs, layer)
        spec = Spec("vector", std=knobs.lambda_std)
        for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
            self.declare(name, (self.qk_width,), spec)
        lambda_init = lambda_init_at(layer) if knobs.lambda_init == "depth" else knobs.lambda_init
        # tensors, not numbers: layers of different depth share one compiled graph
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

    def lambda_now(self) -> Tensor:
        """exp(l_q1 . l_k1) - exp(l_q2 . l_k2) + lambda_init, one scalar a layer (equation 2)."""
        first = (self.lambda_q1 * self.lambda_k1).sum().exp()
        return first - (self.lambda_q2 * self.lambda_k2).sum().exp() + self.lambda_init

    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor:
        signal_bthv, noise_bthv = upcast(self.call_maps(q_bthk, k_bshk, v_bshv, 2, context)).unbind(3)
        normed: Tensor = self.head_norm(signal_bthv - self.lambda_now() * noise_bthv)
        return normed * self.output_scale

    def diagnostics(self) -> dict[str, Tensor]:
        return {"lambda": self.lambda_now()}


class DifferentialAttention(HeadAttention):
    """The difference of two softmax maps on shared values of twice their width."""

    name: ClassVar[str] = "differential"
    summary: ClassVar[str] = "the difference of two softmax maps, a learned lambda a layer, a norm a head"
    paper: ClassVar[str] = "Differential Transformer, arXiv 2410.05258"
    equations: ClassVar[str] = (
        "out = (softmax(Q1 K1^T / sqrt(k)) - lambda softmax(Q2 K2^T / sqrt(k))) V; lambda = exp(l_q1 . l_k1) - "
        "exp(l_q2 . l_k2) + lambda_init (1, 2); heads <- (1 - lambda_init) RMSNorm(out) (3)"
    )
    deviations: ClassVar[str] = (
        "both maps run as heads of one call and are subtracted after V; inside nGPT every map's queries and keys are "
        "normalised and scaled by s_qk, and the head norm has no gain"
    )
    neutral: ClassVar[str] = (
        "lambda 0 (lambda_init 0, lambda vectors 0), no head norm and no output scale: the first map alone."
    )
    neutral_point: ClassVar[Neutral | None] = Neutral(
        knobs={"lambda_init": 0.0, "head_norm": "none", "has_output_scale": False},
        zeros=("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"),
        query_every=2,
        key_every=2,
    )

    lambda_init: float | Literal["depth"] = Field(
        default="depth", description="0.8 - 0.6 exp(-0.3 layer), or a constant"
    )
    lambda_std: float = Field(default=0.1, ge=0.0, description="standard deviation of the lambda vectors at the start")
    head_norm: HeadNorm = Field(default="auto", description="norm of each head's output; auto is rms, inside nGPT l2")
    has_output_scale: bool = Field(default=True, description="multiply normed heads by 1 - lambda_init")

    def query_heads(self, config: ModelConfig) -> int:
        return 2 * config.n_heads

    def key_heads(self, config: ModelConfig) -> int:
        return 2 * self.kv_heads(config)

    def default_qk_width(self, config: ModelConfig) -> int:
        return config.d_model // (2 * config.n_heads) // 2 * 2

    def num_extra_params(self, config: ModelConfig) -> int:
        return 4 * self.qk_width(config) + count_head_norm(self.head_norm, config.head_dim)

    def resolve(self, config: ModelConfig) -> Self:
        head_norm = choose_head_norm(self.head_norm, config.normalization.has_unit_stream)
        return super().resolve(config).model_copy(update={"head_norm": head_norm})

    def notices(self, config: ModelConfig) -> tuple[str, ...]:
        cancels = self.has_output_scale and config.normalization.has_scale_free_writes and not config.bias
        where = "nGPT" if config.normalization.name == "ngpt" else config.normalization.name
        own = (f"(1 - lambda_init) cancels inside {where}: the sub-layer's output is normalised",) if cancels else ()
        return (*super().notices(config), *own)

    def build(self, config: ModelConfig, layer: int) -> AttentionLayer:
        return DifferentialLayer(config, self, layer)
