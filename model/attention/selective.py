"""Selective attention."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..context import Context, LayerCache
from ..contracts import Architecture, Use
from ..kernels.running_sum import running_sum
from ..numerics import upcast
from .layer import HeadLayer
from .standard import StandardHeads


class SelectiveLayer(HeadLayer):
    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor:
        votes_bts = self.vote(q_bthk[:, :, 0], k_bshk[:, :, 0])
        masked_bts = running_sum(votes_bts, 1) - votes_bts  # only the votes of earlier queries
        if cache is not None:
            before_bs = cache.tensors.get("masked", votes_bts[:, 0, :0])
            before_bs = F.pad(before_bs, (0, k_bshk.shape[1] - before_bs.shape[1]))
            masked_bts = masked_bts + before_bs[:, None]
            cache.tensors["masked"] = before_bs + votes_bts.sum(1)
        return self.call(q_bthk, k_bshk, v_bshv, context, bias=-masked_bts[:, None])

    def vote(self, q_btk: Tensor, k_bsk: Tensor) -> Tensor:
        """Compute S (b, t, s): ReLU of head 0's logits on earlier keys except the first token; in at least float32."""
        with torch.autocast(q_btk.device.type, enabled=False):
            logits_bts = torch.einsum("btk,bsk->bts", upcast(q_btk), upcast(k_bsk)) * self.scale
        n_queries, n_keys = logits_bts.shape[1:]
        votes_bts = logits_bts.relu().tril(n_keys - n_queries - 1)
        return F.pad(votes_bts[:, :, 1:], (1, 0))


class SelectiveAttention(StandardHeads):
    """Standard attention in which tokens can hide earlier tokens from all later ones."""

    name: ClassVar[str] = "selective"
    summary: ClassVar[str] = (
        "all heads' logits on a key are lowered by head 0's positive logits, summed over past queries"
    )
    paper: ClassVar[str] = "Selective Attention Improves Transformer, arXiv 2410.02703"
    equations: ClassVar[str] = "z_ij <- z_ij - F_ij; F_ij = sum_{k < i} S_kj; S = ReLU(head 0's z), S_kk = S_k0 = 0"
    deviations: ClassVar[str] = (
        "S is computed before a logit softcap; no pruning of the cache, and no memory loss, because its constants are "
        "uncertain"
    )
    neutral: ClassVar[str] = "None: it has no knob, and equals the baseline only while no logit of head 0 is positive."

    def refuse(self, use: Use) -> str | None:
        return "a vote hides a key from later queries, and without a causal mask there is no later query"

    def extra_flops(self, config: Architecture, visible: float) -> float:
        return self.qk_width(config) * visible

    def build(self, config: Architecture, layer: int) -> HeadLayer:
        return SelectiveLayer(config, self, layer)
