"""One attention call of several models that are stacked by `torch.func.vmap`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attention import attend
from .call import Call

IN_DIMS = 3  # q, k, v; the other arguments are the same for all models


def can_fold(call: Call) -> bool:
    """Whether the models can be further sequences of one call, because they have nothing else of their own."""
    return call.bias is None and call.sink is None and call.seen is None


def attend_folded(call: Call, backend: str) -> Tensor:
    """Compute the call of each model, whose sequences are side by side in one call of `backend`."""
    flags = call.causal, call.scale, call.window, call.softcap, call.deterministic
    out: Tensor = _attend_models(call.q, call.k, call.v, *flags, backend)
    return out


@torch.library.custom_op("ablate::attend_models", mutates_args=())
def _attend_models(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    scale: float,
    window: int | None,
    softcap: float | None,
    deterministic: bool,
    backend: str,
) -> Tensor:
    """An operator because only operators say what `vmap` does with them. Without `vmap`, it has no gradients."""
    call = Call(q, k, v, causal, scale, window, None, softcap, None, deterministic)
    return attend(call, backend).contiguous()


@_attend_models.register_fake
def _describe(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:  # noqa: ARG001
    return v.new_empty(*q.shape[:-1], v.shape[-1])


@_attend_models.register_vmap
def _fold(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    n = info.batch_size
    q, k, v = (
        (x.expand(n, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)
        for x, dim in zip(arguments[:IN_DIMS], in_dims[:IN_DIMS], strict=True)
    )
    causal, scale, window, softcap, deterministic, backend = arguments[IN_DIMS:]
    out = attend(Call(q, k, v, causal, scale, window, None, softcap, None, deterministic), backend)
    return torch.unflatten(out, 0, (n, -1)), 0
