"""Pre-normalisation, the baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import Tensor, nn

from ..variant import Neutral
from .base import Final, Normalization, Residual, Site
from .norms import NormKind, build_norm, count_norm

if TYPE_CHECKING:
    from ..config import ModelConfig


class PreNormResidual(Residual):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def read(self, h_btd: Tensor) -> Tensor:
        normed: Tensor = self.norm(h_btd)
        return normed

    def write(self, h_btd: Tensor, y_btd: Tensor) -> Tensor:
        return h_btd + y_btd


class FinalNorm(Final):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def read(self, h_btd: Tensor) -> Tensor:
        normed: Tensor = self.norm(h_btd)
        return normed


class PreNorm(Normalization):
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

    norm: NormKind = Field(default="rmsnorm", description="the norm; layernorm has a bias where the model has biases")
    eps: float = Field(default=1e-6, gt=0.0, description="added to the mean square (variance) under the root")

    def build_residual(self, config: ModelConfig, site: Site) -> Residual:
        return PreNormResidual(nn.Identity() if config.linear.has_input_norm else self._build(config))

    def build_final(self, config: ModelConfig) -> Final:
        return FinalNorm(self._build(config))

    def num_residual_params(self, config: ModelConfig, site: Site) -> int:
        return 0 if config.linear.has_input_norm else self.num_model_params(config)

    def num_model_params(self, config: ModelConfig) -> int:
        return count_norm(self.norm, config.d_model, config.bias)

    def _build(self, config: ModelConfig) -> nn.Module:
        return build_norm(self.norm, config.d_model, self.eps, config.bias)
