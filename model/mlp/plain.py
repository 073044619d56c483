"""A user's plain module as an MLP."""

from __future__ import annotations

from torch import Tensor, nn

from ..causality import check_tensor
from ..contracts import Architecture, Mlp
from ..foreign import Foreign
from ..plain import PlainLayer


class PlainMlpLayer(Foreign):
    """Calls the module."""

    def forward(self, x_btd: Tensor) -> Tensor:
        return check_tensor(self.module(x_btd))


class PlainMlp(PlainLayer, Mlp):
    """A module x (b, t, d) -> (b, t, d) that maps each token by itself."""

    @property
    def reads_d_ff(self) -> bool:
        return "d_ff" in self.facts

    def hidden_features(self, config: Architecture) -> int:
        return 0  # none that a normalization could scale

    def num_params(self, config: Architecture) -> int:
        return self.measure(config).n_params

    def flops_per_token(self, config: Architecture, context_length: int) -> int:
        return self.flops(config).per_token(context_length)

    def model_params(self, config: Architecture) -> int:
        return self.sum_params(config, config.kept_depths("mlp"))

    def model_flops_per_token(self, config: Architecture, context_length: int) -> int:
        return self.sum_flops(config, config.kept_depths("mlp"), context_length)

    def build(self, config: Architecture, layer: int) -> nn.Module:
        return self.build_foreign(PlainMlpLayer, config, layer)
