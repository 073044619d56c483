"""Forgetting attention (FoX)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..cache import LayerCache
from ..context import Context
from ..contracts import Architecture, Neutral, Use
from ..kernels.call import DecayBias
from ..kernels.running_sum import running_sum
from ..numerics import upcast
from .gate import Gate
from .layer import HeadLayer
from .standard import StandardHeads


class ForgettingLayer(HeadLayer):
    def __init__(self, config: Architecture, knobs: ForgettingAttention, layer: int) -> None:
        super().__init__(config, knobs, layer)
        self.gate = Gate(config, config.n_heads, bias=knobs.bias_init)

    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor:
        log_keep_bsh = F.logsigmoid(upcast(self.gate(x_btd)))
        if cache is not None:
            log_keep_bsh = cache.append("log_keep", log_keep_bsh)
        total_bhs = running_sum(log_keep_bsh, 1).transpose(1, 2)
        bias = DecayBias(total_bhs[..., -x_btd.shape[1] :], total_bhs)
        return self.call(q_bthk, k_bshk, v_bshv, context, bias=bias)


class ForgettingAttention(StandardHeads):
    """Standard attention whose logits decay by the forget gates between key and query."""

    name: ClassVar[str] = "forgetting"
    can_be_stacked: ClassVar[bool] = False
    summary: ClassVar[str] = "logits lowered by the forget gates between key and query (FoX)"
    paper: ClassVar[str] = "Forgetting Transformer, arXiv 2503.02130"
    equations: ClassVar[str] = "f_t = sigmoid(w_h . x_t + b_h); z_ij <- z_ij + sum_{l = j+1 .. i} log f_l"
    deviations: ClassVar[str] = (
        "position is a separate axis here: the paper's model is `position: none`; b starts at bias_init, by "
        "default 0; inside nGPT w is exempt from weight normalization; sums are kept in float32"
    )
    neutral: ClassVar[str] = "bias_init so large that every gate is 1."
    neutral_point: ClassVar[Neutral | None] = Neutral(knobs={"bias_init": 100.0})

    bias_init: float = Field(
        default=0.0, ge=-1e6, le=1e6, description="initial b: sigmoid(b) is the share kept per token"
    )

    def num_extra_params(self, config: Architecture) -> int:
        return (config.d_model + 1) * config.n_heads

    def refuse(self, use: Use) -> str | None:
        return "a forget gate acts between a key and a later query, and without a causal mask there is no later query"

    def extra_flops(self, config: Architecture, visible: float) -> float:
        return 2 * config.d_model * config.n_heads

    def build(self, config: Architecture, layer: int) -> HeadLayer:
        return ForgettingLayer(config, self, layer)
