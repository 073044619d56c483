"""RMSNorm and LayerNorm as modules."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from ..declared import Declared, Spec
from ..numerics import rms, upcast

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
        return F.layer_norm(upcast(x), self.gain.shape, self.gain, self.bias, self.eps)


def build_norm(kind: NormKind, width: int, eps: float, has_bias: bool) -> Declared:
    return RMSNorm(width, eps) if kind == "rmsnorm" else LayerNorm(width, eps, has_bias)


def count_norm(kind: NormKind, width: int, has_bias: bool) -> int:
    return width * (2 if kind == "layernorm" and has_bias else 1)
