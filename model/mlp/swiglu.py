"""SwiGLU."""

from __future__ import annotations

from typing import ClassVar

from ..contracts import Architecture, Mlp, Neutral
from ..layers import MlpLayer, swiglu


class SwiGLU(Mlp):
    """Gated MLP with a SiLU gate."""

    name: ClassVar[str] = "swiglu"
    summary: ClassVar[str] = "value * SiLU(gate), both computed by one matrix"
    paper: ClassVar[str] = "GLU Variants Improve Transformer, arXiv 2002.05202"
    equations: ClassVar[str] = "u, v = halves of x W_h; y = (u * SiLU(v)) W_o; inner width d_ff"
    deviations: ClassVar[str] = (
        "d_ff defaults to 4 d_model, as in nGPT's code, instead of the parameter-neutral 8/3 d_model"
    )
    neutral: ClassVar[str] = "It is the baseline."
    neutral_point: ClassVar[Neutral | None] = Neutral()

    def hidden_features(self, config: Architecture) -> int:
        return 2 * config.d_ff

    def gate_features(self, config: Architecture) -> int:
        return config.d_ff

    def build(self, config: Architecture, layer: int) -> MlpLayer:
        return MlpLayer(config, swiglu)
