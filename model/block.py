"""One transformer block: attention and MLP on the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from .attention.base import Context
from .cache import LayerCache
from .declared import Declared, Spec

if TYPE_CHECKING:
    from .config import ModelConfig


class Block(Declared):
    """Block number `layer` of the model, at 0-based `depth` of its path; sub-layers that the config drops are None."""

    def __init__(self, config: ModelConfig, layer: int, depth: int) -> None:
        super().__init__()
        self.dropout, self.settle = config.dropout, config.normalization.settle
        self.attention, self.attention_residual, self.mlp, self.mlp_residual = None, None, None, None
        if config.keeps("attention", layer):
            self.attention = config.attention.build(config, depth)
            self.attention_residual = config.normalization.build_residual(config, "attention")
        if config.keeps("mlp", layer):
            self.mlp = config.mlp.build(config, depth)
            self.mlp_residual = config.normalization.build_residual(config, "mlp")
        has_shortcut = config.embedding_shortcut and config.keeps("block", layer)
        self.shortcut = self.declare("shortcut", (2,), Spec("vector", mean=(1.0, 0.0))) if has_shortcut else None

    def forward(self, h_btd: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """(b, t, d) -> (b, t, d)."""
        if self.shortcut is not None and context.source is not None:
            h_btd = self.settle(self.shortcut[0] * h_btd + self.shortcut[1] * context.source)
        seen_btd = h_btd
        if self.attention is not None and self.attention_residual is not None:
            y_btd: Tensor = self.attention(self.attention_residual.read(h_btd), context, cache)
            y_btd = F.dropout(y_btd, self.dropout, self.training)
            if self.mlp is None:
                h_btd = self.attention_residual.write(h_btd, y_btd)
            else:
                h_btd, seen_btd = self.attention_residual.hand_on(h_btd, y_btd)
        if self.mlp is not None and self.mlp_residual is not None:
            y_btd = self.mlp(self.mlp_residual.read(seen_btd))
            h_btd = self.mlp_residual.write(h_btd, F.dropout(y_btd, self.dropout, self.training))
        return h_btd

    def diagnostics(self) -> dict[str, Tensor]:
        return {} if self.shortcut is None else {"embedding_shortcut": self.shortcut[1]}
