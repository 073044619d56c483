"""One transformer block: attention and MLP on the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .attention.base import Context
from .cache import LayerCache
from .declared import Declared

if TYPE_CHECKING:
    from .config import ModelConfig


class Block(Declared):
    """The block at 0-based `depth` of its path."""

    def __init__(self, config: ModelConfig, depth: int) -> None:
        super().__init__()
        self.attention = config.attention.build(config, depth)
        self.attention_residual = config.normalization.build_residual(config, "attention")
        self.mlp = config.mlp.build(config, depth)
        self.mlp_residual = config.normalization.build_residual(config, "mlp")

    def forward(self, h_btd: Tensor, source_btd: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """(b, t, d) -> (b, t, d); `source_btd` is the stream before the first block."""
        y_btd: Tensor = self.attention(self.attention_residual.read(h_btd), context, cache)
        h_btd = self.attention_residual.write(h_btd, y_btd)
        y_btd = self.mlp(self.mlp_residual.read(h_btd))
        return self.mlp_residual.write(h_btd, y_btd)
