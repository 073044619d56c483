"""State of one forward pass, and of decoding, that every layer receives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Tables = tuple[Tensor, ...]  # what a positional encoding computes once per forward pass for all layers


@dataclass
class Context:
    """State of one forward pass.

    Position tables, the attention backend, the embedding for shortcuts (b, t, d), and, once the first layer of a path
    has run, its values (b, t, g, v) for value residuals.
    """

    tables: Tables
    backend: str
    source: Tensor | None = None
    first_values: Tensor | None = None

    def mix_values(self, v_bshv: Tensor, is_first: bool, mix: Tensor | float) -> Tensor:
        """v <- (1 - m) v + m v_first, v_first the path's first values before any mixing (arXiv 2410.17897)."""
        if is_first:  # not `first_values is None`: a recomputed layer finds the values of its first run
            self.first_values = v_bshv
            return v_bshv
        assert self.first_values is not None  # config.py: the first layer of a path keeps its attention
        return (v_bshv + mix * (self.first_values - v_bshv)).to(v_bshv.dtype)


class LayerCache:
    """Named tensors of one attention layer; those of `append` grow along time, dimension 1."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def append(self, name: str, new_bt: Tensor) -> Tensor:
        """Append the newest time steps under `name` and return all time steps so far."""
        old = self.tensors.get(name)
        self.tensors[name] = new_bt if old is None else torch.cat((old, new_bt), dim=1)
        return self.tensors[name]


class Cache:
    """The attention layers' state after `length` decoded tokens."""

    def __init__(self, n_layers: int) -> None:
        self.length = 0
        self.layers = [LayerCache() for _ in range(n_layers)]
