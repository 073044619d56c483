"""The MLP of GPT-2."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field
from torch.nn import functional as F

from ..contracts import NO_MLP, Architecture, Mlp
from ..layers import MlpLayer


class Gelu(Mlp):
    """Two matrices around a GELU."""

    name: ClassVar[str] = "gelu"
    summary: ClassVar[str] = "two matrices around a GELU"
    paper: ClassVar[str] = "Gaussian Error Linear Units, arXiv 1606.08415"
    equations: ClassVar[str] = "y = GELU(x W_h) W_o, GELU(x) = x Phi(x)"
    deviations: ClassVar[str] = "GPT-2's tanh approximation by default"
    neutral: ClassVar[str] = "None: without a gate it cannot equal SwiGLU."

    approximate: Literal["tanh", "none"] = Field(
        default="tanh", description="tanh is GPT-2's approximation, none is the exact function"
    )

    def idle(self, config: Architecture) -> dict[str, str]:
        return {} if config.count_kept("mlp") else {"approximate": NO_MLP}

    def build(self, config: Architecture, layer: int) -> MlpLayer:
        return MlpLayer(config, partial(F.gelu, approximate=self.approximate))
