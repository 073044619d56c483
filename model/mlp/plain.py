"""A user's plain module as an MLP."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..causality import check_tensor
from ..contracts import Architecture, Mlp, Part
from ..foreign import Foreign
from ..plain import PlainLayer


class PlainMlpLayer(Foreign):
    """Calls the module."""

    def forward(self, x_btd: Tensor) -> Tensor:
        return check_tensor(self.module(x_btd))


class PlainMlp(PlainLayer, Mlp):
    """A module x (b, t, d) -> (b, t, d) that maps each token by itself."""

    part: ClassVar[Part] = "mlp"

    @property
    def reads_d_ff(self) -> bool:
        return "d_ff" in self.facts

    def hidden_features(self, config: Architecture) -> int:
        return 0  # none that a normalization could scale

    def build(self, config: Architecture, layer: int) -> nn.Module:
        return self.build_foreign(PlainMlpLayer, config, layer)
