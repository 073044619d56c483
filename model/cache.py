"""What attention layers remember between calls while decoding."""

from __future__ import annotations

import torch
from torch import Tensor


class LayerCache:
    """Named tensors of one layer; those of `append` grow along time, dimension 1."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def append(self, name: str, new_bt: Tensor) -> Tensor:
        """Add the newest time steps under `name` and return all of them so far."""
        old = self.tensors.get(name)
        self.tensors[name] = new_bt if old is None else torch.cat((old, new_bt), dim=1)
        return self.tensors[name]


class Cache:
    """The state of a model's attention layers after `length` tokens."""

    def __init__(self, n_layers: int) -> None:
        self.length = 0
        self.layers = [LayerCache() for _ in range(n_layers)]
