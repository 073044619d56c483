"""Multi-head, grouped-query and multi-query attention."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar

from ..contracts import Architecture, Neutral
from .heads import HeadAttention
from .layer import HeadLayer


class StandardHeads(HeadAttention, ABC):
    """The heads of ordinary attention: n_heads query heads on n_kv_heads key and value heads."""

    def query_heads(self, config: Architecture) -> int:
        return config.n_heads

    def key_heads(self, config: Architecture) -> int:
        return self.kv_heads(config)


class StandardAttention(StandardHeads):
    """Softmax attention."""

    name: ClassVar[str] = "standard"
    summary: ClassVar[str] = "multi-head attention; n_kv_heads makes it grouped-query or multi-query"
    paper: ClassVar[str] = "Attention Is All You Need, arXiv 1706.03762; GQA, 2305.13245"
    equations: ClassVar[str] = "out = softmax(Q K^T / sqrt(k)) V per head, causal"
    deviations: ClassVar[str] = "none"
    neutral: ClassVar[str] = "It is the baseline."
    neutral_point: ClassVar[Neutral | None] = Neutral()

    def build(self, config: Architecture, layer: int) -> HeadLayer:
        return HeadLayer(config, self, layer)
