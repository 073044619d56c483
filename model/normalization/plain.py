"""A user's plain module as the norm of a pre-norm model."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..causality import check_tensor
from ..contracts import Architecture, Normalization, Site
from ..foreign import Foreign
from ..plain import Plain
from ..residual import Final, Residual
from .norms import FinalNorm, PreNormResidual


class PlainNormModule(Foreign):
    """Calls the module."""

    def forward(self, x_btd: Tensor) -> Tensor:
        return check_tensor(self.module(x_btd))


class PlainNorm(Plain, Normalization):
    """A module x (b, t, d) -> (b, t, d) that stands before each sub-layer and before the head, as prenorm's norm."""

    OFFERED: ClassVar[tuple[str, ...]] = ("d_model", "n_layers", "context_length")

    def build_norm(self, config: Architecture) -> nn.Module:
        return self.build_foreign(PlainNormModule, config, 0)

    def build_residual(self, config: Architecture, site: Site) -> Residual:
        return PreNormResidual(self.build_norm(config))

    def build_final(self, config: Architecture) -> Final:
        return FinalNorm(self.build_norm(config))

    def num_residual_params(self, config: Architecture, site: Site) -> int:
        return self.measure(config).n_params

    def num_model_params(self, config: Architecture) -> int:
        return self.measure(config).n_params
