"""Transformer blocks, and the stack that runs them one after the other."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .cache import Cache, LayerCache
from .context import Context
from .contracts import Architecture
from .parameters import Spec, SpecModule


class Block(SpecModule):
    """Block number `layer` of the model, at 0-based `depth` of its path; sub-layers that the config drops are None."""

    def __init__(self, config: Architecture, layer: int, depth: int) -> None:
        super().__init__()
        config = config.at(depth)
        self.dropout, self.constrain = config.dropout, config.normalization.constrain
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
        return self.transform(*self.attend(h_btd, context, cache))

    def attend(self, h_btd: Tensor, context: Context, cache: LayerCache | None) -> tuple[Tensor, Tensor]:
        """Run shortcut and attention: the new stream, and the stream for the next sub-layer to read."""
        if self.shortcut is not None and context.source is not None:
            h_btd = self.constrain(self.shortcut[0] * h_btd + self.shortcut[1] * context.source)
        if self.attention is None or self.attention_residual is None:
            return h_btd, h_btd
        y_btd: Tensor = self.attention(self.attention_residual.read(h_btd), context, cache)
        return self.attention_residual.write(h_btd, F.dropout(y_btd, self.dropout, self.training))

    def transform(self, h_btd: Tensor, x_btd: Tensor) -> Tensor:
        """Run the MLP on x and return the new stream."""
        if self.mlp is not None and self.mlp_residual is not None:
            y_btd = self.mlp(self.mlp_residual.read(x_btd))
            h_btd, _ = self.mlp_residual.write(h_btd, F.dropout(y_btd, self.dropout, self.training))
        return h_btd

    def diagnostics(self) -> dict[str, Tensor]:
        return {} if self.shortcut is None else {"embedding_shortcut": self.shortcut[1]}


class Stack(SpecModule):
    """All blocks of a model, one after the other; `recomputes` trades time for memory (arXiv 1604.06174)."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.recomputes, self.has_dropout = False, config.dropout > 0.0
        paths = config.topology.paths(config.n_layers)
        self.blocks = nn.ModuleList(
            self.build_block(config, layer, depth) for path in paths for depth, layer in enumerate(path)
        )
        # a user's module may have a dropout of its own
        self.has_dropout |= any(getattr(module, "holds_foreign", False) for module in self.blocks.modules())

    def build_block(self, config: Architecture, layer: int, depth: int) -> Block:
        return Block(config, layer, depth)

    def forward(self, h_btd: Tensor, context: Context, cache: Cache | None = None) -> Tensor:
        return self.run(range(len(self.blocks)), h_btd, context, cache)

    def run(self, layers: range, h_btd: Tensor, context: Context, cache: Cache | None) -> Tensor:
        """Run one path through the blocks numbered `layers`."""
        context = replace(context, first_values=None)
        for layer in layers:
            block = self.blocks[layer]
            if self.recomputes and cache is None and torch.is_grad_enabled():
                keep_rng = self.has_dropout and self.training
                h_btd = checkpoint(block, h_btd, context, use_reentrant=False, preserve_rng_state=keep_rng)
            else:
                h_btd = block(h_btd, context, None if cache is None else cache.layers[layer])
        return h_btd
