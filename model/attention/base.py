"""The contract of attentions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..cache import LayerCache
from ..declared import Declared
from ..position.base import Tables
from ..variant import Variant

if TYPE_CHECKING:
    from ..config import ModelConfig


@dataclass
class Context:
    """What one forward pass hands to every layer.

    Position tables, the attention backend, the embedding for shortcuts (b, t, d), and, once the first layer of a path
    has run, its values (b, t, g, v) for value residuals.
    """

    tables: Tables
    backend: str
    source: Tensor | None = None
    first_values: Tensor | None = None


class AttentionLayer(Declared, ABC):
    """Causal self-attention of one layer."""

    @abstractmethod
    def forward(self, x_btd: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """(b, t, d) -> (b, t, d). With a cache, x holds the newest t tokens, which see all before them."""


class Attention(Variant, ABC):
    """A kind of causal self-attention; its knobs are the fields."""

    @abstractmethod
    def default_qk_width(self, config: ModelConfig) -> int:
        """The width that follows from the model's sizes alone."""

    @abstractmethod
    def qk_width(self, config: ModelConfig) -> int:
        """The width of one query or key head, which the positional encoding rotates."""

    @abstractmethod
    def query_features(self, config: ModelConfig) -> int:
        """All query features of a token: heads times width."""

    @abstractmethod
    def num_params(self, config: ModelConfig) -> int:
        """Parameters of one layer, without those that the normalization adds."""

    @abstractmethod
    def flops_per_token(self, config: ModelConfig, context_length: int) -> int:
        """Forward matmul FLOPs of one layer per token, averaged over the positions of a causal context."""

    @abstractmethod
    def build(self, config: ModelConfig, layer: int) -> AttentionLayer:
        """The layer at 0-based depth `layer`."""
