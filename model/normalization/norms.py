"""Norms, and their places before a sub-layer and before the head."""

from __future__ import annotations

from torch import Tensor, nn

from ..numerics import rms
from ..parameters import Spec, SpecModule
from ..residual import Final, Residual


class RMSNorm(SpecModule):
    """gain * x / sqrt(mean(x^2) + eps) over the last dimension, in at least float32 (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.gain = self.declare("gain", (width,), Spec("vector", mean=1.0))

    def forward(self, x: Tensor) -> Tensor:
        return rms(x, self.eps) * self.gain


class FinalNorm(Final):
    """A norm before the head."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def read(self, h_btd: Tensor) -> Tensor:
        normed: Tensor = self.norm(h_btd)
        return normed

    def logit_scale(self) -> None:
        return None


class PreNormResidual(Residual):
    """h <- h + f(N(h))."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def read(self, h_btd: Tensor) -> Tensor:
        normed: Tensor = self.norm(h_btd)
        return normed

    def write(self, h_btd: Tensor, y_btd: Tensor) -> tuple[Tensor, Tensor]:
        h_btd = h_btd + y_btd
        return h_btd, h_btd
