"""What a normalization builds: how sub-layers, queries, keys and the head are connected to the residual stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from .context import Tables
from .numerics import rms
from .parameters import SpecModule

SOURCE_EPS = 1e-6  # as RMSNorm's

Rotate = Callable[[Tensor, Tables], Tensor]


class Residual(SpecModule, ABC):
    """Connects one sub-layer f to the residual stream: y = f(read(h)), then h <- write(h, y)."""

    @abstractmethod
    def read(self, h_btd: Tensor) -> Tensor: ...

    @abstractmethod
    def write(self, h_btd: Tensor, y_btd: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new stream, and the stream for the next sub-layer to read, which may be a 16-bit copy of it."""


class HeadPlacement(SpecModule, ABC):
    """A normalization's own positions, norms and scales of queries and keys.

    `scale` multiplies the logits.
    """

    scale: float

    @abstractmethod
    def forward(self, q_bthk: Tensor, k_bshk: Tensor, rotate: Rotate, tables: Tables) -> tuple[Tensor, Tensor]: ...


class Final(SpecModule, ABC):
    """Connects the last block to the head."""

    @abstractmethod
    def read(self, h_btd: Tensor) -> Tensor: ...

    @abstractmethod
    def logit_scale(self) -> Tensor | None:
        """Return the factor of the logits, (v,), (1,) or (), if there is one."""


class End(SpecModule):
    """What a `Final` does before the head."""

    def __init__(self, final: Final) -> None:
        super().__init__()
        self.final = final

    def forward(self, h_btd: Tensor) -> Tensor:
        return self.final.read(h_btd)


def keep_stream(h_btd: Tensor) -> Tensor:
    """Leave an unconstrained stream as it is."""
    return h_btd


def scale_source(h_btd: Tensor) -> Tensor:
    """Scale the embedding to RMS 1, without a gain."""
    return rms(h_btd, SOURCE_EPS)
