"""One block after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ..attention.base import Context
from ..cache import Cache
from ..variant import Neutral
from .base import Stack, Topology

if TYPE_CHECKING:
    from ..config import ModelConfig


class SequentialStack(Stack):
    def forward(self, h_btd: Tensor, context: Context, cache: Cache | None = None) -> Tensor:
        return self.run(range(len(self.blocks)), h_btd, context, cache)


class Sequential(Topology):
    """The ordinary transformer."""

    name: ClassVar[str] = "sequential"
    summary: ClassVar[str] = "one block after the other"
    paper: ClassVar[str] = "none: the baseline"
    equations: ClassVar[str] = "h <- block_l(h) for l = 0 ... n_layers - 1"
    deviations: ClassVar[str] = "none"
    neutral: ClassVar[str] = "It is the baseline."
    neutral_point: ClassVar[Neutral | None] = Neutral()

    def paths(self, n_layers: int) -> list[range]:
        return [range(n_layers)]

    def num_params(self, config: ModelConfig) -> int:
        return 0

    def flops_per_token(self, config: ModelConfig) -> int:
        return 0

    def build(self, config: ModelConfig) -> Stack:
        return SequentialStack(config)
