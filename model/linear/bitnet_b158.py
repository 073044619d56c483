"""BitNet b1.58: ternary weights and 8-bit activations, trained through straight-through estimators."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..contracts import Architecture, Linear
from ..layers import LinearLayer, multiply
from ..numerics import rms, upcast

FLOOR = 1e-5  # of both scales, as in the authors' code
NORM_EPS = 1e-6


def quantize_activations(x: Tensor) -> Tensor:
    """Round each token's vector to 256 levels, -128 to 127, of its largest magnitude; the gradient passes unchanged."""
    scale = 127.0 / x.abs().amax(-1, keepdim=True).clamp_min(FLOOR)
    return x + ((x * scale).round().clamp(-128, 127) / scale - x).detach()


def quantize_weights(weight: Tensor, axis: int | None) -> Tensor:
    """Round weights to -1, 0 or 1 times the mean magnitude, overall or along `axis`; the gradient passes unchanged."""
    magnitude = weight.abs().mean() if axis is None else weight.abs().mean(axis, keepdim=True)
    scale = magnitude.clamp_min(FLOOR)
    return weight + ((weight / scale).round().clamp(-1, 1) * scale - weight).detach()


class BitLayer(LinearLayer):
    def __init__(self, config: Architecture, shape: tuple[int, int], axis: int, std: float) -> None:
        super().__init__(config, shape, axis, std)
        self.is_on_sphere = config.normalization.has_unit_stream

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        x = quantize_activations(upcast(x) if self.is_on_sphere else rms(x, NORM_EPS))
        weight = quantize_weights(self.read_weight(), self.axis if self.is_on_sphere else None)
        return multiply(x, weight, self.bias, gain)


class BitNet(Linear):
    """Ternary weights, 8-bit activations, a norm inside each layer."""

    name: ClassVar[str] = "bitnet_b158"
    summary: ClassVar[str] = "ternary weights and 8-bit activations, quantized during training"
    paper: ClassVar[str] = "The Era of 1-bit LLMs, arXiv 2402.17764, and its Training Tips, Code, FAQ"
    equations: ClassVar[str] = (
        "x' = RMSNorm(x); q = clamp(round(s x'), -128, 127) / s, s = 127 / max|x'|; W' = clamp(round(W / g), -1, 1) g, "
        "g = mean|W|; y = q W'^T; gradients pass both roundings"
    )
    deviations: ClassVar[str] = (
        "the norm inside has no gain; blocks omit their own norms before it. Inside nGPT, as an extension, the unit "
        "weights are quantized one unit vector at a time, and there is no norm inside"
    )
    neutral: ClassVar[str] = "None: three levels cannot hold the baseline's weights."

    @property
    def has_input_norm(self) -> bool:
        return True

    def notices(self, config: Architecture) -> tuple[str, ...]:
        if not config.normalization.has_unit_stream:
            return ()
        return (
            f"bitnet_b158 inside {config.normalization.name} is an extension: unit vectors are quantized one by one",
        )

    def build(self, config: Architecture, shape: tuple[int, int], axis: int, std: float) -> LinearLayer:
        return BitLayer(config, shape, axis, std)
