"""The contract of MLPs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..linear.base import build_reader, build_writer, count_linear
from ..variant import Variant

if TYPE_CHECKING:
    from ..config import ModelConfig


class MlpLayer(nn.Module, ABC):
    """d_model -> hidden features -> activation -> d_ff -> d_model; the activation is the variant's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        n_hidden = config.mlp.hidden_features(config)
        self.hidden = build_reader(config, n_hidden)
        self.scale = config.normalization.build_hidden_scale(config, n_hidden)
        self.output = build_writer(config, config.d_ff)

    def forward(self, x_btd: Tensor) -> Tensor:
        written_btd: Tensor = self.output(self.activate(self.hidden(x_btd, self.scale())))
        return written_btd

    @abstractmethod
    def activate(self, hidden: Tensor) -> Tensor:
        """(..., hidden_features) -> (..., d_ff)."""


class Mlp(Variant, ABC):
    """A two-matrix MLP around an activation."""

    @property
    def is_homogeneous(self) -> bool:
        """Whether a positive factor of the hidden features is a factor of the output."""
        return False

    @abstractmethod
    def default_d_ff(self, d_model: int) -> int:
        """The inner width used when the model config leaves it open."""

    @abstractmethod
    def hidden_features(self, config: ModelConfig) -> int:
        """The outputs of the first matrix: d_ff, or more when it also makes gates."""

    @abstractmethod
    def build(self, config: ModelConfig, layer: int) -> MlpLayer: ...

    def num_params(self, config: ModelConfig) -> int:
        """Parameters of one layer, without those that the normalization adds."""
        hidden = count_linear(config, config.d_model, self.hidden_features(config))
        return hidden + count_linear(config, config.d_ff, config.d_model)

    def flops_per_token(self, config: ModelConfig, context_length: int) -> int:
        """Forward matmul FLOPs of one layer, per token."""
        return 2 * config.d_model * (self.hidden_features(config) + config.d_ff)


class PlainMlp(Mlp, ABC):
    """An MLP without a gate: d_ff hidden features, by default four times d_model."""

    def default_d_ff(self, d_model: int) -> int:
        return 4 * d_model

    def hidden_features(self, config: ModelConfig) -> int:
        return config.d_ff
