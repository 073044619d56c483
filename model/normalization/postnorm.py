"""Norms after the sub-layers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from ..contracts import Architecture, Site
from ..residual import Final, Residual
from .norms import FinalNorm
from .prenorm import BuiltOfNorms


class SumNormResidual(Residual):
    """h <- N(h + y)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def read(self, h_btd: Tensor) -> Tensor:
        return h_btd

    def write(self, h_btd: Tensor, y_btd: Tensor) -> tuple[Tensor, Tensor]:
        h_btd = self.norm(h_btd + y_btd)
        return h_btd, h_btd


class OutputNormResidual(SumNormResidual):
    """h <- h + N(y)."""

    def write(self, h_btd: Tensor, y_btd: Tensor) -> tuple[Tensor, Tensor]:
        h_btd = h_btd + self.norm(y_btd)
        return h_btd, h_btd


class PostNorm(BuiltOfNorms):
    """The norms of the first transformer, or those of OLMo 2 on the output only."""

    name: ClassVar[str] = "postnorm"
    summary: ClassVar[str] = "h <- N(h + f(h)), or h <- h + N(f(h)) with a norm before the head"
    paper: ClassVar[str] = "Attention Is All You Need, arXiv 1706.03762 (sum); OLMo 2, 2501.00656 (output)"
    equations: ClassVar[str] = (
        "sum: h <- N(h + f(h)), no norm before the head; output: h <- h + N(f(h)), logits = N(h) W^T"
    )
    deviations: ClassVar[str] = "RMSNorm by default; the first transformer has LayerNorm"
    neutral: ClassVar[str] = "None: the sub-layers read a stream without a norm before them."

    place: Literal["sum", "output"] = Field(
        default="sum", description="what the norm applies to: the sum, or the sub-layer's output"
    )

    @property
    def has_scale_free_writes(self) -> bool:
        return self.place == "output"

    def build_residual(self, config: Architecture, site: Site) -> Residual:
        norm = self.build_norm(config)
        return SumNormResidual(norm) if self.place == "sum" else OutputNormResidual(norm)

    def build_final(self, config: Architecture) -> Final:
        return FinalNorm(nn.Identity() if self.place == "sum" else self.build_norm(config))

    def num_residual_params(self, config: Architecture, site: Site) -> int:
        return self.count_norm(config)

    def num_model_params(self, config: Architecture) -> int:
        return 0 if self.place == "sum" else self.count_norm(config)
