"""Attention with a sink: a head can attend to nothing."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..cache import LayerCache
from ..context import Context
from ..contracts import Architecture, Neutral
from ..parameters import Spec
from .layer import HeadLayer
from .standard import StandardHeads


class SinkLayer(HeadLayer):
    def __init__(self, config: Architecture, knobs: SinkAttention, layer: int) -> None:
        super().__init__(config, knobs, layer)
        self.is_learned = knobs.sink == "learned"
        if self.is_learned:
            self.declare("sink", (config.n_heads,), Spec("vector", mean=knobs.init))
        else:
            self.register_buffer("sink", torch.zeros(config.n_heads), persistent=False)

    sink: Tensor

    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor:
        return self.call(q_bthk, k_bshk, v_bshv, context, sink=self.sink)

    def diagnostics(self) -> dict[str, Tensor]:
        return {"sink": self.sink.mean()} if self.is_learned else {}


class SinkAttention(StandardHeads):
    """Standard attention with an extra term in the softmax's denominator."""

    name: ClassVar[str] = "sink"
    summary: ClassVar[str] = "a term exp(s) in the softmax's denominator: learned per head, or 1 (off by one)"
    paper: ClassVar[str] = "gpt-oss (learned); E. Miller, Attention Is Off By One, 2023 (off_by_one)"
    equations: ClassVar[str] = "a_ij = exp(z_ij) / (exp(s) + sum_j exp(z_ij)), s a scalar per head, or 0"
    deviations: ClassVar[str] = "s starts at 0, where learned equals off_by_one"
    neutral: ClassVar[str] = "a learned sink with init far below every logit: exp(s) = 0."
    neutral_point: ClassVar[Neutral | None] = Neutral(knobs={"init": -1e4})

    sink: Literal["learned", "off_by_one"] = Field(default="learned", description="s learned per head, or fixed at 0")
    init: float = Field(default=0.0, ge=-1e6, le=1e6, description="initial s, if learned")

    def idle(self, config: Architecture) -> dict[str, str]:
        found = super().idle(config)
        return {**found, "init": "the sink is fixed at 0"} if self.sink == "off_by_one" else found

    def num_extra_params(self, config: Architecture) -> int:
        return config.n_heads if self.sink == "learned" else 0

    def build(self, config: Architecture, layer: int) -> HeadLayer:
        return SinkLayer(config, self, layer)
