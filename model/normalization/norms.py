"""RMSNorm and LayerNorm, and what the normalizations made of them share."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..declared import Declared, Spec
from ..numerics import rms, upcast
from .base import Final, Normalization

if TYPE_CHECKING:
    from ..config import ModelConfig

NormKind = Literal["rmsnorm", "layernorm"]


class RMSNorm(Declared):
    """gain * x / sqrt(mean(x^2) + eps) over the last dimension, in at least float32 (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.gain = self.declare("gain", (width,), Spec("vector", mean=1.0))

    def forward(self, x: Tensor) -> Tensor:
        return rms(x, self.eps) * self.gain


class LayerNorm(Declared):
    """gain * (x - mean) / sqrt(var + eps) (+ bias) over the last dimension, in at least float32 (arXiv 1607.06450)."""

    def __init__(self, width: int, eps: float, has_bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.gain = self.declare("gain", (width,), Spec("vector", mean=1.0))
        self.bias = self.declare("bias", (width,), Spec("vector")) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else upcast(self.bias)
        return F.layer_norm(upcast(x), self.gain.shape, upcast(self.gain), bias, self.eps)


class FinalNorm(Final):
    """A norm before the head."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def read(self, h_btd: Tensor) -> Tensor:
        normed: Tensor = self.norm(h_btd)
        return normed


class BuiltOfNorms(Normalization, ABC):
    """A normalization with one kind of norm in all places, one of them before the head."""

    norm: NormKind = Field(default="rmsnorm", description="the norm; layernorm has a bias where the model has biases")
    eps: float = Field(default=1e-6, ge=1e-30, le=1.0, description="added to the mean square (variance) under the root")

    def build_norm(self, config: ModelConfig) -> nn.Module:
        if self.norm == "rmsnorm":
            return RMSNorm(config.d_model, self.eps)
        return LayerNorm(config.d_model, self.eps, config.bias)

    def count_norm(self, config: ModelConfig) -> int:
        return config.d_model * (2 if self.norm == "layernorm" and config.bias else 1)

    def build_input_norm(self, config: ModelConfig) -> nn.Module:
        """The norm before a sub-layer, which linear layers that normalise their own input replace."""
        return nn.Identity() if config.linear.has_input_norm else self.build_norm(config)

    def count_input_norm(self, config: ModelConfig) -> int:
        return 0 if config.linear.has_input_norm else self.count_norm(config)

    def build_final(self, config: ModelConfig) -> Final:
        return FinalNorm(self.build_norm(config))

    def num_model_params(self, config: ModelConfig) -> int:
        return self.count_norm(config)
