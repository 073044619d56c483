"""Pre-normalization, the baseline."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..contracts import Architecture, Neutral, Normalization, Site
from ..numerics import upcast
from ..parameters import Spec, SpecModule
from ..residual import Final, Residual
from .norms import FinalNorm, PreNormResidual, RMSNorm

NormKind = Literal["rmsnorm", "layernorm"]


class LayerNorm(SpecModule):
    """gain * (x - mean) / sqrt(var + eps) (+ bias) over the last dimension, in at least float32 (arXiv 1607.06450)."""

    def __init__(self, width: int, eps: float, has_bias: bool) -> None:
        super().__init__()
        self.eps = eps
        self.gain = self.declare("gain", (width,), Spec("vector", mean=1.0))
        self.bias = self.declare("bias", (width,), Spec("vector")) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else upcast(self.bias)
        return F.layer_norm(upcast(x), self.gain.shape, upcast(self.gain), bias, self.eps)


class BuiltOfNorms(Normalization, ABC):
    """A normalization with one kind of norm everywhere, also before the head."""

    norm: NormKind = Field(default="rmsnorm", description="kind of norm; layernorm has a bias if the model has biases")
    eps: float = Field(
        default=1e-6, ge=1e-30, le=1.0, description="added to the mean square (or variance) under the root"
    )

    def build_norm(self, config: Architecture) -> nn.Module:
        if self.norm == "rmsnorm":
            return RMSNorm(config.d_model, self.eps)
        return LayerNorm(config.d_model, self.eps, config.bias)

    def count_norm(self, config: Architecture) -> int:
        return config.d_model * (2 if self.norm == "layernorm" and config.bias else 1)

    def build_input_norm(self, config: Architecture) -> nn.Module:
        """Build the norm before a sub-layer, unless linear layers normalize their own input."""
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
    deviations: ClassVar[str] = "linear layers that normalize their own input replace the norms before sub-layers"
    neutral: ClassVar[str] = "It is the baseline."
    neutral_point: ClassVar[Neutral | None] = Neutral()

    def build_residual(self, config: Architecture, site: Site) -> Residual:
        return PreNormResidual(self.build_input_norm(config))

    def num_residual_params(self, config: Architecture, site: Site) -> int:
        return self.count_input_norm(config)
