"""The contract of positional encodings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..declared import Declared
from ..variant import Variant

if TYPE_CHECKING:
    from ..config import ModelConfig

Tables = tuple[Tensor, ...]
Rotate = Callable[[Tensor, Tables], Tensor]


class PositionEncoding(Declared):
    """What a model keeps for positions; this one, without parameters, adds nothing and has no tables."""

    def embed(self, start: int, length: int) -> Tensor | None:
        """Vectors (length, d_model) added to the token vectors of positions start, start + 1, ..., or None."""
        return None

    def tables(self, start: int, length: int, device: torch.device, dtype: torch.dtype) -> Tables:
        """Tensors, one row a position, that `rotate` takes; computed once a forward pass for all layers."""
        return ()


def keep(x_bthk: Tensor, _tables: Tables) -> Tensor:
    """The rotation of encodings that do not rotate."""
    return x_bthk


class Position(Variant, ABC):
    """A positional encoding."""

    @abstractmethod
    def num_params(self, config: ModelConfig) -> int:
        """The parameters of the whole model's positional encoding."""

    @abstractmethod
    def build(self, config: ModelConfig) -> PositionEncoding: ...

    @property
    def rotate(self) -> Rotate:
        """The function applied to queries and keys (b, t, h, k) in every layer; a plain function, so it compiles."""
        return keep
