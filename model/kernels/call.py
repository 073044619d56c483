"""One attention call, and the error of a backend that cannot compute it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .bias import Bias


class BackendError(ValueError):
    """A backend asked for by name cannot compute this call. It is never replaced in silence."""


@dataclass(frozen=True)
class Call:
    """One attention call: q (b, t, h, d), k (b, s, g, d), v (b, s, g, v), h a multiple of g, and what modifies it."""

    q: Tensor
    k: Tensor
    v: Tensor
    causal: bool
    scale: float
    window: int | None
    bias: Bias | None
    softcap: float | None
    sink: Tensor | None
    deterministic: bool
