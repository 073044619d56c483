"""Value residuals (arXiv 2410.17897)."""

from __future__ import annotations

from torch import Tensor

from ..context import Context

HALF = 0.5  # the mix of `value_residual: half`


def mix_values(v_bshv: Tensor, context: Context, is_first: bool, mix: Tensor | None) -> Tensor:
    """v <- (1 - m) v + m v_first, v_first the path's first values before any mixing; `mix` None is one half."""
    if is_first:  # not `first_values is None`: a recomputed layer finds the values of its first run
        context.first_values = v_bshv
        return v_bshv
    assert context.first_values is not None  # config.py: the first layer of a path keeps its attention
    return (v_bshv + (HALF if mix is None else mix) * (context.first_values - v_bshv)).to(v_bshv.dtype)
