"""Peri-LN: norms on both sides of each sub-layer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ..contracts import Architecture, Site
from ..residual import Residual
from .norms import PreNormResidual
from .prenorm import BuiltOfNorms


class PeriResidual(PreNormResidual):
    def __init__(self, norm: nn.Module, norm_out: nn.Module) -> None:
        super().__init__(norm)
        self.norm_out = norm_out

    def write(self, h_btd: Tensor, y_btd: Tensor) -> tuple[Tensor, Tensor]:
        return super().write(h_btd, self.norm_out(y_btd))


class Peri(BuiltOfNorms):
    """Sandwich norms, as in Gemma 2 and 3."""

    name: ClassVar[str] = "peri"
    summary: ClassVar[str] = "h <- h + N_out(f(N_in(h))), and N before the head"
    paper: ClassVar[str] = "Peri-LN, arXiv 2502.02732"
    equations: ClassVar[str] = "h <- h + N_out(ATTN(N_in(h))), the same for MLP; logits = N(h) W_head^T"
    deviations: ClassVar[str] = "no norm of the embedding; linear layers that normalize their own input replace N_in"
    neutral: ClassVar[str] = "None: no gain makes N_out the identity."

    @property
    def has_scale_free_writes(self) -> bool:
        return True

    def build_residual(self, config: Architecture, site: Site) -> Residual:
        return PeriResidual(self.build_input_norm(config), self.build_norm(config))

    def num_residual_params(self, config: Architecture, site: Site) -> int:
        return self.count_input_norm(config) + self.count_norm(config)
