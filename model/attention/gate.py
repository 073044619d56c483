"""Small projections to per-head controls."""

from __future__ import annotations

from torch import Tensor

from ..contracts import Architecture
from ..layers import multiply
from ..parameters import Spec, SpecModule


class Gate(SpecModule):
    """A small dense projection (..., d_model) -> (..., out) to per-head controls.

    Exempt from weight normalization and quantization: its output is a control, not a direction in the stream.
    """

    def __init__(self, config: Architecture, n_out: int, bias: float | None = None) -> None:
        super().__init__()
        self.weight = self.declare("weight", (n_out, config.d_model), Spec("gate", std=config.base_std))
        self.bias = None if bias is None else self.declare("bias", (n_out,), Spec("gate", mean=bias))

    def forward(self, x_btd: Tensor) -> Tensor:
        return multiply(x_btd, self.weight, self.bias)
