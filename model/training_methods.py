"""What training asks of a model besides its loss: compiled and recomputed blocks, penalties, and a trial pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attention_backend import BackendMethods
from .blocks import Stack
from .parameters import SpecModule


class TrainingMethods(BackendMethods):
    """Methods of every model with a head."""

    config: Any
    training: bool
    has_penalties: bool
    modules: Any
    read_end: Any
    _compiled_end: Any

    def stacks(self) -> tuple[Stack, ...]:
        """Return every stack of blocks."""
        raise NotImplementedError

    def probe(self, n_sequences: int) -> None:
        """Run a forward pass over `n_sequences` of full length."""
        raise NotImplementedError

    def compile_blocks(self) -> None:
        """Compile the blocks in place and the loss. Blocks share one graph, so depth costs no compilation time."""
        for stack in self.stacks():
            for block in stack.blocks:
                block.compile(dynamic=False)
        self._compiled_end = torch.compile(self.read_end, dynamic=False)

    def recompute_blocks(self) -> None:
        """Keep only the input of each block for the backward pass, and recompute the rest (arXiv 1604.06174)."""
        for stack in self.stacks():
            stack.recomputes = True

    def add_penalties(self, loss: Tensor) -> Tensor:
        """Add what the modules penalize while they train."""
        if not (self.has_penalties and self.training):
            return loss
        found = self._take_penalties()
        if hasattr(self, "embedding"):
            found.append(self.config.normalization.penalize_embedding(self.embedding.read_weight()))
        return loss + sum(penalty for penalty in found if penalty is not None)

    def forget_penalties(self) -> None:
        """Let go of the graph of a step. Blocks that are recomputed leave their penalties once more."""
        if self.has_penalties:
            self._take_penalties()

    def _take_penalties(self) -> list[Tensor | None]:
        return [module.take_penalty() for module in self.modules() if isinstance(module, SpecModule)]
