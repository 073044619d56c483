"""Exclusive self-attention (XSA)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ..cache import LayerCache
from ..context import Context
from ..contracts import Architecture, Neutral, Use
from ..kernels.unit_vectors import unit
from ..numerics import upcast
from ..parameters import Spec
from .layer import HeadLayer
from .standard import StandardHeads


class ExclusiveLayer(HeadLayer):
    def __init__(self, config: Architecture, knobs: ExclusiveAttention, layer: int) -> None:
        super().__init__(config, knobs, layer)
        is_learned = knobs.fraction == "learned"
        self.fraction = self.declare("fraction", (config.n_heads,), Spec("vector")) if is_learned else None

    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor:
        out_bthv = upcast(self.call(q_bthk, k_bshk, v_bshv, context))
        own_bthv = upcast(v_bshv[:, -x_btd.shape[1] :]).repeat_interleave(self.n_heads // self.n_kv_heads, dim=2)
        direction_bthv = unit(own_bthv)
        if self.fraction is None:
            # same result, but exactly 0 where a token sees only itself; a norm would amplify rounding noise there
            out_bthv = out_bthv - own_bthv
        along_bthv = (out_bthv * direction_bthv).sum(-1, keepdim=True) * direction_bthv
        return out_bthv - (along_bthv if self.fraction is None else self.fraction.tanh()[:, None] * along_bthv)

    def diagnostics(self) -> dict[str, Tensor]:
        return {} if self.fraction is None else {"excluded": self.fraction.tanh().mean()}


class ExclusiveAttention(StandardHeads):
    """Standard attention without the component along the token's own value."""

    name: ClassVar[str] = "exclusive"
    summary: ClassVar[str] = "head outputs without their component along the token's own value (XSA)"
    paper: ClassVar[str] = "Exclusive Self Attention, arXiv 2603.09078; learned fraction: modded-nanogpt"
    equations: ClassVar[str] = "z_i = y_i - a (y_i . v_i) v_i / ||v_i||^2 per head; a = 1, or tanh of a scalar per head"
    deviations: ClassVar[str] = "the learned fraction starts at 0"
    neutral: ClassVar[str] = "a learned fraction of 0, its initial value."
    neutral_point: ClassVar[Neutral | None] = Neutral(knobs={"fraction": "learned"}, zeros=("fraction",))

    fraction: Literal["full", "learned"] = Field(default="full", description="how much of the component to remove")

    def refuse(self, use: Use) -> str | None:
        if use == "cross":
            return "it removes the component along a token's own value, and the other sequence holds no such value"
        return super().refuse(use)

    def num_extra_params(self, config: Architecture) -> int:
        return config.n_heads if self.fraction == "learned" else 0

    def build(self, config: Architecture, layer: int) -> HeadLayer:
        return ExclusiveLayer(config, self, layer)
