"""The MLP of GPT-2."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..dropped import NO_MLP
from .base import MlpLayer, PlainMlp

if TYPE_CHECKING:
    from ..config import ModelConfig


class GeluLayer(MlpLayer):
    def __init__(self, config: ModelConfig, approximate: str) -> None:
        super().__init__(config)
        self.approximate = approximate

    def activate(self, hidden: Tensor) -> Tensor:
        return F.gelu(hidden, approximate=self.approximate)


class Gelu(PlainMlp):
    """Two matrices around a GELU."""

    name: ClassVar[str] = "gelu"
    summary: ClassVar[str] = "two matrices around a GELU"
    paper: ClassVar[str] = "Gaussian Error Linear Units, arXiv 1606.08415"
    equations: ClassVar[str] = "y = GELU(x W_h) W_o, GELU(x) = x Phi(x)"
    deviations: ClassVar[str] = "GPT-2's tanh approximation by default"
    neutral: ClassVar[str] = "None: without a gate it is another function than SwiGLU."

    approximate: Literal["tanh", "none"] = Field(default="tanh", description="tanh as GPT-2, or the exact function")

    def idle(self, config: ModelConfig) -> dict[str, str]:
        return {} if config.count_kept("mlp") else {"approximate": NO_MLP}

    def build(self, config: ModelConfig, layer: int) -> MlpLayer:
        return GeluLayer(config, self.approximate)
