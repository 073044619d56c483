"""Dynamic tanh (DyT) in place of norms."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from ..contracts import NO_ATTENTION, NO_MLP, Architecture, Normalization, Site
from ..numerics import upcast
from ..parameters import Spec, SpecModule
from ..residual import Final, Residual
from .norms import FinalNorm, PreNormResidual


class DynamicTanh(SpecModule):
    """gain * tanh(a x) + bias over (..., d), where a is one learned scalar."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.slope = self.declare("slope", (1,), Spec("vector", mean=start))
        self.gain = self.declare("gain", (width,), Spec("vector", mean=1.0))
        self.bias = self.declare("bias", (width,), Spec("vector"))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * (self.slope * upcast(x)).tanh() + self.bias


class EmbeddingScale(SpecModule):
    """One learned factor on the embedding, initially sqrt(d)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.factor = self.declare("factor", (1,), Spec("vector", mean=math.sqrt(d_model)))

    def forward(self, h_btd: Tensor) -> Tensor:
        return h_btd * self.factor


class DyT(Normalization):
    """Pre-norm with an elementwise tanh instead of each norm."""

    name: ClassVar[str] = "dyt"
    summary: ClassVar[str] = "pre-norm with gain * tanh(a x) + bias in place of each norm"
    paper: ClassVar[str] = "Transformers without Normalization, arXiv 2503.10622"
    equations: ClassVar[str] = "DyT(x) = gain * tanh(a x) + bias; h <- h + f(DyT(h)); logits = DyT(h) W_head^T"
    deviations: ClassVar[str] = (
        "by default a starts at 0.5 everywhere, whereas the paper's language models choose it by width, and larger in "
        "attention; gain and bias always exist, as in the paper, even if the model's `bias` is false; linear layers "
        "that normalize their own input replace the tanh before sub-layers"
    )
    neutral: ClassVar[str] = "None: an elementwise function cannot divide by a statistic of the vector."

    attention_start: float = Field(default=0.5, gt=0.0, le=1e3, description="initial a before attention")
    mlp_start: float = Field(default=0.5, gt=0.0, le=1e3, description="initial a before the MLP")
    final_start: float = Field(default=0.5, gt=0.0, le=1e3, description="initial a before the head")
    has_embedding_scale: bool = Field(
        default=True, description="one learned factor on the embedding, initially sqrt(d)"
    )

    def idle(self, config: Architecture) -> dict[str, str]:
        found = super().idle(config)
        if config.linear.has_input_norm:
            why = f"{config.linear.name} normalizes its own input, so there is no tanh before a sub-layer"
            return found | dict.fromkeys(("attention_start", "mlp_start"), why)
        if not config.count_kept("attention"):
            found["attention_start"] = NO_ATTENTION
        if not config.count_kept("mlp"):
            found["mlp_start"] = NO_MLP
        return found

    def build_input(self, config: Architecture) -> nn.Module | None:
        return EmbeddingScale(config.d_model) if self.has_embedding_scale else None

    def build_residual(self, config: Architecture, site: Site) -> Residual:
        if config.linear.has_input_norm:
            return PreNormResidual(nn.Identity())
        start = self.attention_start if site == "attention" else self.mlp_start
        return PreNormResidual(DynamicTanh(config.d_model, start))

    def build_final(self, config: Architecture) -> Final:
        return FinalNorm(DynamicTanh(config.d_model, self.final_start))

    def num_residual_params(self, config: Architecture, site: Site) -> int:
        return 0 if config.linear.has_input_norm else 2 * config.d_model + 1

    def num_model_params(self, config: Architecture) -> int:
        return 2 * config.d_model + 1 + self.has_embedding_scale
