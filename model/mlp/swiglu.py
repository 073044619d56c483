"""SwiGLU."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..kernels.fused import is_fusible
from ..variant import Neutral
from .base import Mlp, MlpLayer

if TYPE_CHECKING:
    from ..config import ModelConfig


class SwiGLULayer(MlpLayer):
    def activate(self, hidden: Tensor) -> Tensor:
        if is_fusible(hidden):
            from ..kernels.fused.swiglu import swiglu

            return swiglu(hidden)
        value, gate = hidden.chunk(2, dim=-1)
        return value * F.silu(gate)


class SwiGLU(Mlp):
    """Gated MLP with a SiLU gate."""

    name: ClassVar[str] = "swiglu"
    summary: ClassVar[str] = "value * SiLU(gate), both read from the stream by one fused matrix"
    paper: ClassVar[str] = "GLU Variants Improve Transformer, arXiv 2002.05202"
    equations: ClassVar[str] = "u, v = halves of x W_h; y = (u * SiLU(v)) W_o; inner width d_ff"
    deviations: ClassVar[str] = "d_ff defaults to 4 d_model as in nGPT's code, not to the parameter-neutral 8/3 d_model"
    neutral: ClassVar[str] = "It is the baseline."
    neutral_point: ClassVar[Neutral | None] = Neutral()

    def default_d_ff(self, d_model: int) -> int:
        return 4 * d_model

    def hidden_features(self, config: ModelConfig) -> int:
        return 2 * config.d_ff

    def build(self, config: ModelConfig, layer: int) -> MlpLayer:
        return SwiGLULayer(config)
