"""Pre-normalisation, the baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from ..variant import Neutral
from .base import Residual, Site
from .norms import BuiltOfNorms

if TYPE_CHECKING:
    from ..config import ModelConfig


class PreNormResidual(Residual):
    """h <- h + f(N(h))."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def read(self, h_btd: Tensor) -> Tensor:
        normed: Tensor = self.norm(h_btd)
        return normed

    def write(self, h_btd: Tensor, y_btd: Tensor) -> Tensor:
        return h_btd + y_btd


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

    def build_residual(self, config: ModelConfig, site: Site) -> Residual:
        return PreNormResidual(self.build_input_norm(config))

    def num_residual_params(self, config: ModelConfig, site: Site) -> int:
        return self.count_input_norm(config)
