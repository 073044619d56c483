"""Additive attention biases, dense or in factors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DecayBias(NamedTuple):
    """The bias query_bht[i] - key_bhs[j], never formed by the backends that take its factors; float32 or float64."""

    query_bht: Tensor
    key_bhs: Tensor

    def dense(self) -> Tensor:
        """(b, h, t, s)."""
        return self.query_bht[..., :, None] - self.key_bhs[..., None, :]


Bias = Tensor | DecayBias


def densify(bias: Bias) -> Tensor:
    """The bias as a tensor that broadcasts to (b, h, t, s)."""
    return bias.dense() if isinstance(bias, DecayBias) else bias
