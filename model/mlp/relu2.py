"""The MLP with a squared ReLU."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..contracts import Architecture, Mlp
from ..layers import MlpLayer


def relu2(hidden: Tensor) -> Tensor:
    return hidden.relu().square()


class Relu2(Mlp):
    """Two matrices around ReLU(x)^2."""

    name: ClassVar[str] = "relu2"
    summary: ClassVar[str] = "two matrices around a squared ReLU"
    paper: ClassVar[str] = "Primer, arXiv 2109.08668"
    equations: ClassVar[str] = "y = ReLU(x W_h)^2 W_o"
    deviations: ClassVar[str] = "none"
    neutral: ClassVar[str] = "None: without a gate it cannot equal SwiGLU."

    @property
    def is_homogeneous(self) -> bool:
        return True

    def build(self, config: Architecture, layer: int) -> MlpLayer:
        return MlpLayer(config, relu2)
