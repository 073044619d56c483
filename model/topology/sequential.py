"""One block after the other."""

from __future__ import annotations

from typing import ClassVar

from ..blocks import Stack
from ..contracts import Architecture, Neutral, Topology


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

    def build(self, config: Architecture) -> Stack:
        return Stack(config)
