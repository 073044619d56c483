"""Gated attention."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..cache import LayerCache
from ..context import Context
from ..contracts import Architecture
from ..numerics import upcast
from .gate import Gate
from .layer import HeadLayer
from .standard import StandardHeads


class GatedLayer(HeadLayer):
    def __init__(self, config: Architecture, knobs: GatedAttention, layer: int) -> None:
        super().__init__(config, knobs, layer)
        self.gate = Gate(config, knobs.gate_features(config))

    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor:
        gate_bthv = torch.unflatten(upcast(self.gate(x_btd)).sigmoid(), -1, (self.n_heads, -1))
        return upcast(self.call(q_bthk, k_bshk, v_bshv, context)) * gate_bthv


class GatedAttention(StandardHeads):
    """Standard attention whose head outputs are multiplied by a sigmoid gate on the layer's input."""

    name: ClassVar[str] = "gated"
    summary: ClassVar[str] = "head outputs times a sigmoid gate computed from the layer's input"
    paper: ClassVar[str] = "Gated Attention for Large Language Models, arXiv 2505.06708"
    equations: ClassVar[str] = (
        "out = attn(x) * sigmoid(x W_g), before W_o; W_g gives one number per head, or one per feature"
    )
    deviations: ClassVar[str] = (
        "inside nGPT W_g is exempt from weight normalization; qk_norm, which the paper's models use, is a knob"
    )
    neutral: ClassVar[str] = "None: without a bias, no weights make the sigmoid 1."

    gate: Literal["headwise", "elementwise"] = Field(
        default="elementwise", description="one gate per head, or one per feature"
    )

    def idle(self, config: Architecture) -> dict[str, str]:
        found = super().idle(config)
        return {**found, "gate": "a head has one feature"} if config.head_dim == 1 else found

    def gate_features(self, config: Architecture) -> int:
        return config.n_heads if self.gate == "headwise" else config.d_model

    def num_extra_params(self, config: Architecture) -> int:
        return config.d_model * self.gate_features(config)

    def extra_flops(self, config: Architecture, visible: float) -> float:
        return 2 * self.num_extra_params(config)

    def build(self, config: Architecture, layer: int) -> HeadLayer:
        return GatedLayer(config, self, layer)
