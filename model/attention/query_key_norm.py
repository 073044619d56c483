"""Norms of single query and key heads."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ..kernels.unit_vectors import unit
from ..normalization.norms import RMSNorm
from ..parameters import Spec, SpecModule

QueryKeyNorm = Literal["none", "rms", "l2"]
EPS = 1e-6


class RmsNorms(SpecModule):
    """RMSNorm with one gain (k,) for all query heads and one for all key heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = RMSNorm(width, EPS), RMSNorm(width, EPS)

    def forward(self, q_bthk: Tensor, k_bshk: Tensor) -> tuple[Tensor, Tensor]:
        return self.query(q_bthk), self.key(k_bshk)


class L2Norms(SpecModule):
    """Unit queries and keys; a learned temperature per query head, starting at sqrt(k), the logits' scale under rms."""

    def __init__(self, n_query: int, width: int) -> None:
        super().__init__()
        self.temperature = self.declare("temperature", (n_query,), Spec("vector", mean=width**0.5))

    def forward(self, q_bthk: Tensor, k_bshk: Tensor) -> tuple[Tensor, Tensor]:
        return unit(q_bthk) * self.temperature[:, None], unit(k_bshk)


def build_qk_norm(kind: QueryKeyNorm, n_query: int, width: int) -> SpecModule | None:
    match kind:
        case "none":
            return None
        case "rms":
            return RmsNorms(width)
        case "l2":
            return L2Norms(n_query, width)


def count_qk_norm(kind: QueryKeyNorm, n_query: int, width: int) -> int:
    return {"none": 0, "rms": 2 * width, "l2": n_query}[kind]
