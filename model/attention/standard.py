"""Multi-head, grouped-query and multi-query attention."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, ClassVar

from ..variant import Neutral
from .base import AttentionLayer
from .heads import HeadAttention, HeadLayer

if TYPE_CHECKING:
    from ..config import ModelConfig


class StandardHeads(HeadAttention, ABC):
    """Heads as ordinary attention has them: n_heads query heads on n_kv_heads key and value heads."""

    def query_heads(self, config: ModelConfig) -> int:
        return config.n_heads

    def key_heads(self, config: ModelConfig) -> int:
        return self.kv_heads(config)


class StandardAttention(StandardHeads):
    """Softmax attention."""

    name: ClassVar[str] = "standard"
    summary: ClassVar[str] = "multi-head attention; grouped-query and multi-query by n_kv_heads"
    paper: ClassVar[str] = "Attention Is All You Need, arXiv 1706.03762; GQA, 2305.13245"
    equations: ClassVar[str] = "out = softmax(Q K^T / sqrt(k)) V per head, causal"
    deviations: ClassVar[str] = "none"
    neutral: ClassVar[str] = "It is the baseline."
    neutral_point: ClassVar[Neutral | None] = Neutral()

    def build(self, config: ModelConfig, layer: int) -> AttentionLayer:
        return HeadLayer(config, self, layer)
