"""Attention to another sequence, the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..cache import LayerCache
from ..context import Context

if TYPE_CHECKING:
    from .layer import HeadLayer


def attend_across(
    layer: HeadLayer, x_btd: Tensor, memory_bsd: Tensor, context: Context, cache: LayerCache | None
) -> Tensor:
    """(b, t, d) -> (b, t, d), with the keys and values of the memory (b, s, d), which a cache keeps."""
    cache = LayerCache() if cache is None else cache
    k_bsf = cache.keep("memory_key", lambda: layer.key(memory_bsd))
    v_bsf = cache.keep("memory_value", lambda: layer.value(memory_bsd))
    q_bthk, k_bshk, v_bshv = layer.split(layer.query(x_btd), k_bsf, v_bsf)
    q_bthk, k_bshk = (x.to(v_bshv.dtype) for x in layer.place(q_bthk, k_bshk, context))
    crossed_btd: Tensor = layer.output(layer.attend(q_bthk, k_bshk, v_bshv, x_btd, context, None).flatten(2))
    return crossed_btd
