"""Pre-normalisation, the baseline."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Literal

from pydantic import Field
from torch import nn

from ..contracts import Architecture, Final, Neutral, Normalization, Residual, Site
from .norms import FinalNorm, LayerNorm, PreNormResidual, RMSNorm

NormKind = Literal["rmsnorm", "layernorm"]


class BuiltOfNorms(Normalization, ABC):
    """A normalization with one kind of norm in all places, one of them before the head."""

    norm: NormKind = Field(default="rmsnorm", description="the norm; layernorm has a bias where the model has biases")
    eps: float = Field(default=1e-6, ge=1e-30, le=1.0, description="added to the mean square (variance) under the root")

    def build_norm(self, config: Architecture) -> nn.Module:
        if self.norm == "rmsnorm":
            return RMSNorm(config.d_model, self.eps)
        return LayerNorm(config.d_model, self.eps, config.bias)

    def count_norm(self, config: Architecture) -> int:
        return config.d_model * (2 if self.norm == "layernorm" and config.bias else 1)

    def build_input_norm(self, config: Architecture) -> nn.Module:
        """The norm before a sub-layer, which linear layers that normalise their own input replace."""
        return nn.Identity() if config.linear.has_input_norm else self.build_norm(config)

    def count_input_norm(self, config: Architecture) -> int:
        return 0 if config.linear.has_input_norm else self.count_norm(config)

    def build_final(self, config: Architecture) -> Final:
        return FinalNorm(self.build_norm(config))

    def num_model_params(self, config: Architecture) -> int:
        return self.count_norm(config)


class PreNorm(BuiltOfNorms):
    """A norm before each sub-layer and one before the head."""

    name: ClassVar[str] = "prenorm"
    summary: ClassVar[str] = "h <- h + f(N(h)), and N before the head"
    paper: ClassVar[str] = (
        "On Layer Normalization in the Transformer Architecture, arXiv 2002.04745; RMSNorm, 1910.07467"
    )
    equations: ClassVar[str] = "h <- h + ATTN(N(h)); h <- h + MLP(N(h)); logits = N(h) W_head^T"
    deviations: ClassVar[str] = "with linear layers that normalise their own input, the norms before sub-layers go"
    neutral: ClassVar[str] = "It is the baseline."
    neutral_point: ClassVar[Neutral | None] = Neutral()

    def build_residual(self, config: Architecture, site: Site) -> Residual:
        return PreNormResidual(self.build_input_norm(config))

    def num_residual_params(self, config: Architecture, site: Site) -> int:
        return self.count_input_norm(config)
