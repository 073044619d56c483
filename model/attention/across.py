"""Attention to another sequence, the memory."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from ..cache import LayerCache
from ..context import Context


class Projecting(Protocol):
    """The steps of a layer with heads, as `HeadLayer` has them."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    output: nn.Module

    def split(self, q_btf: Tensor, k_bsf: Tensor, v_bsf: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def place(self, q_bthk: Tensor, k_bshk: Tensor, context: Context) -> tuple[Tensor, Tensor]: ...

    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor: ...


def attend_across(
    layer: Projecting, x_btd: Tensor, memory_bsd: Tensor, context: Context, cache: LayerCache | None
) -> Tensor:
    """(b, t, d) -> (b, t, d), with the keys and values of the memory (b, s, d), which a cache keeps."""
    cache = LayerCache() if cache is None else cache
    k_bsf = cache.keep("memory_key", lambda: layer.key(memory_bsd))
    v_bsf = cache.keep("memory_value", lambda: layer.value(memory_bsd))
    q_bthk, k_bshk, v_bshv = layer.split(layer.query(x_btd), k_bsf, v_bsf)
    q_bthk, k_bshk = (x.to(v_bshv.dtype) for x in layer.place(q_bthk, k_bshk, context))
    crossed_btd: Tensor = layer.output(layer.attend(q_bthk, k_bshk, v_bshv, x_btd, context, None).flatten(2))
    return crossed_btd
