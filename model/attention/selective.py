"""Selective attention."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from ..cache import LayerCache
from ..context import Context
from ..contracts import Architecture, Use
from ..kernels.running_sum import running_sum
from ..numerics import upcast
from .layer import HeadLayer
from .standard import StandardHeads


class SelectiveLayer(HeadLayer):
    def __init__(self, config: Architecture, knobs: SelectiveAttention, layer: int) -> None:
        super().__init__(config, knobs, layer)
        self.tau = knobs.memory_tau
        self.memory_weight = knobs.memory_weight / max(config.count_kept("attention"), 1)
        self.memory: Tensor | None = None

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
        elif self.memory_weight and self.training:
            self.memory = self.measure_memory(masked_bts)
        out_bthv = self.call(q_bthk, k_bshk, v_bshv, context, bias=-masked_bts[:, None])
        if cache is not None and cache.budget is not None:
            prune(cache, cache.budget)
        return out_bthv

    def measure_memory(self, masked_bts: Tensor) -> Tensor:
        """Compute the mean over sequences of max_i sum_{j <= i} (1 - min(F_ij, tau) / tau) / t."""
        kept_bts = (1 - masked_bts.clamp(max=self.tau) / self.tau).tril()
        return (kept_bts.sum(-1).amax(-1) / masked_bts.shape[1]).mean()

    def take_penalty(self) -> Tensor | None:
        memory, self.memory = self.memory, None
        return None if memory is None else self.memory_weight * memory

    def vote(self, q_btk: Tensor, k_bsk: Tensor) -> Tensor:
        """Compute S (b, t, s): ReLU of head 0's logits on earlier keys except the first token; in at least float32."""
        with torch.autocast(q_btk.device.type, enabled=False):
            logits_bts = torch.einsum("btk,bsk->bts", upcast(q_btk), upcast(k_bsk)) * self.scale
        n_queries, n_keys = logits_bts.shape[1:]
        votes_bts = logits_bts.relu().tril(n_keys - n_queries - 1)
        return F.pad(votes_bts[:, :, 1:], (1, 0))


def prune(cache: LayerCache, budget: int) -> None:
    """Keep the first token and the `budget` - 1 others with the smallest F, the newest of equal ones."""
    masked_bs = cache.tensors["masked"].clone()
    n_dropped = masked_bs.shape[1] - budget
    if n_dropped <= 0:
        return
    masked_bs[:, 0] = -1.0
    newest_first_bs = masked_bs.flip(1).argsort(dim=1, stable=True)[:, :budget]
    kept_bs = (masked_bs.shape[1] - 1 - newest_first_bs).sort(dim=1).values
    rows_b1 = torch.arange(len(masked_bs), device=masked_bs.device)[:, None]
    cache.tensors = {name: tensor[rows_b1, kept_bs] for name, tensor in cache.tensors.items()}
    cache.n_dropped += n_dropped


class SelectiveAttention(StandardHeads):
    """Standard attention in which tokens can hide earlier tokens from all later ones."""

    name: ClassVar[str] = "selective"
    can_be_stacked: ClassVar[bool] = False
    summary: ClassVar[str] = (
        "all heads' logits on a key are lowered by head 0's positive logits, summed over past queries"
    )
    paper: ClassVar[str] = "Selective Attention Improves Transformer, arXiv 2410.02703"
    equations: ClassVar[str] = "z_ij <- z_ij - F_ij; F_ij = sum_{k < i} S_kj; S = ReLU(head 0's z), S_kk = S_k0 = 0"
    deviations: ClassVar[str] = (
        "S is computed before a logit softcap; the cache is pruned after each call, in inference only; the memory loss "
        "adds memory_weight * mean over layers of max_i sum_j (1 - min(F_ij, tau) / tau) / t, whose form and constants "
        "(0.1 and 1) come from re-implementations, so it is off by default"
    )
    neutral: ClassVar[str] = (
        "None: no knob switches the votes off; it equals the baseline only while no logit of head 0 is positive."
    )

    later: ClassVar[frozenset[str]] = frozenset({"memory_weight", "memory_tau"})

    memory_weight: float = Field(
        default=0.0, ge=0.0, le=1e6, description="weight of the memory loss; the paper's is 0.1"
    )
    memory_tau: float = Field(
        default=1.0, gt=0.0, le=1e6, description="F at which the memory loss counts a key as gone"
    )

    @property
    def has_penalty(self) -> bool:
        return self.memory_weight > 0

    @property
    def prunes_cache(self) -> bool:
        return self.window is None

    def idle(self, config: Architecture) -> dict[str, str]:
        found = super().idle(config)
        return found if self.memory_weight else {**found, "memory_tau": "there is no memory loss"}

    def refuse(self, use: Use) -> str | None:
        return "a vote hides a key from later queries, and without a causal mask there is no later query"

    def extra_flops(self, config: Architecture, visible: float) -> float:
        return self.qk_width(config) * visible

    def build(self, config: Architecture, layer: int) -> HeadLayer:
        return SelectiveLayer(config, self, layer)
