"""The contract of topologies: how blocks are joined into one function of the stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..attention.base import Context
from ..block import Block
from ..cache import Cache
from ..declared import Declared
from ..variant import Variant

if TYPE_CHECKING:
    from ..config import ModelConfig


class Stack(Declared, ABC):
    """All blocks of a model, in `blocks`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.recomputes, self.has_dropout = False, config.dropout > 0.0
        paths = config.topology.paths(config.n_layers)
        self.blocks = nn.ModuleList(Block(config, layer, depth) for path in paths for depth, layer in enumerate(path))

    @abstractmethod
    def forward(self, h_btd: Tensor, context: Context, cache: Cache | None = None) -> Tensor: ...

    def run(self, layers: range, h_btd: Tensor, context: Context, cache: Cache | None) -> Tensor:
        """One path through the blocks numbered `layers`."""
        context = replace(context, first_values=None)
        for layer in layers:
            block = self.blocks[layer]
            if self.recomputes and cache is None and torch.is_grad_enabled():
                h_btd = checkpoint(
                    block, h_btd, context, use_reentrant=False, preserve_rng_state=self.has_dropout and self.training
                )
            else:
                h_btd = block(h_btd, context, None if cache is None else cache.layers[layer])
        return h_btd


class Topology(Variant, ABC):
    """How blocks are joined."""

    @abstractmethod
    def paths(self, n_layers: int) -> list[range]:
        """The layer numbers of each path, in order; together 0 to n_layers - 1."""

    @abstractmethod
    def num_params(self, config: ModelConfig) -> int:
        """Parameters outside the blocks."""

    @abstractmethod
    def flops_per_token(self, config: ModelConfig) -> int:
        """Forward matmul FLOPs per token outside the blocks."""

    @abstractmethod
    def build(self, config: ModelConfig) -> Stack: ...
