"""One attention call, its bias, and the error of a backend that cannot compute it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class DecayBias(NamedTuple):
    """The bias query_bht[i] - key_bhs[j] in factors, float32 or float64; some backends never form the whole bias."""

    query_bht: Tensor
    key_bhs: Tensor

    def dense(self) -> Tensor:
        """Return the whole bias (b, h, t, s)."""
        return self.query_bht[..., :, None] - self.key_bhs[..., None, :]


Bias = Tensor | DecayBias


def densify(bias: Bias) -> Tensor:
    """Return the bias as a tensor that broadcasts to (b, h, t, s)."""
    return bias.dense() if isinstance(bias, DecayBias) else bias


class BackendError(ValueError):
    """A named backend cannot compute this call. No other backend replaces it silently."""


@dataclass(frozen=True)
class Call:
    """One attention call: q (b, t, h, d), k (b, s, g, d), v (b, s, g, v), h a multiple of g, and its modifiers.

    `seen` (b, s) is False for keys that no query may see, such as padding.
    """

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
    seen: Tensor | None = None
