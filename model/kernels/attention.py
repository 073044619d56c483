"""softmax(scale Q K^T + bias) V for every attention, on a backend that fits the shape and the machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import describe_unknown
from .call import BackendError, Bias, Call, DecayBias
from .flash import attend_flash
from .flex import attend_flex
from .math import attend_math
from .sdpa import attend_sdpa

BACKENDS: dict[str, Callable[[Call], Tensor]] = {
    "sdpa": attend_sdpa,
    "flash": attend_flash,
    "flex": attend_flex,
    "math": attend_math,
}
WATCHERS: list[Callable[[Call, str], None]] = []  # called with every call and the name of its backend


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    bias: Bias | None = None,
    softcap: float | None = None,
    sink: Tensor | None = None,
    backend: str = "auto",
    deterministic: bool = False,
    seen: Tensor | None = None,
) -> Tensor:
    """Compute softmax(softcap(scale q k^T) + bias) v: (b, t, h, v).

    q (b, t, h, d); k (b, s, g, d); v (b, s, g, v); query head j uses key head j // (h / g); the last query is at the
    position of the last key. `scale` is d^-1/2 by default. `window` is the number of newest keys a query sees, with
    its own. `bias` broadcasts to (b, h, t, s) and may hold -inf; `softcap` c turns logits z into c tanh(z / c); `sink`
    (h,) is the logit of an extra key of value 0 that all queries see. `seen` (b, s) is False for keys that are hidden
    from all queries, such as padding. A query that sees no key gets 0.
    With `deterministic`, the same inputs give the same bits, forward and backward.
    Raises BackendError when `backend` is unknown, or is named and cannot compute the call.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return attend(Call(q, k, v, causal, scale, window, bias, softcap, sink, deterministic, seen), backend)


def attend(call: Call, backend: str) -> Tensor:
    """Compute the call on `backend`, as `attention` does."""
    name = choose(call)[0] if backend == "auto" else backend
    if name not in BACKENDS:
        raise BackendError(f"{describe_unknown(name, BACKENDS, 'backend')} (legal: auto, {', '.join(BACKENDS)})")
    if call.deterministic and name == "flex" and _has_learned_bias(call):
        raise BackendError(
            "flex adds up the gradients of a bias in any order, so reruns would differ; use sdpa or math"
        )
    for watch in WATCHERS:
        watch(call, name)
    return BACKENDS[name](call)


def _has_learned_bias(call: Call) -> bool:
    factors = call.bias if isinstance(call.bias, DecayBias) else (call.bias,)
    return any(factor is not None and factor.requires_grad for factor in factors)


def choose(call: Call) -> tuple[str, str]:
    """Return the backend that "auto" means for a call, and why. "auto" never means flash."""
    if call.q.device.type != "cuda":
        if call.softcap is not None:
            return "math", "sdpa has no logit softcap, and flex no gradients on a CPU"
        return "sdpa", "the fused kernel of a CPU"
    # flex would compile each length of decoding again
    fits_flex = call.q.shape[1] == call.k.shape[1] and call.q.dtype != torch.float64
    if call.softcap is not None:
        return ("flex" if fits_flex else "math"), "sdpa has no logit softcap"
    if fits_flex and not call.deterministic:  # flex sums gradients of captured factors in any order
        if isinstance(call.bias, DecayBias):
            return "flex", "takes the factors of the bias, where sdpa needs all of it"
        if call.window is not None and call.window < call.k.shape[1] and call.bias is None and call.seen is None:
            return "flex", "skips what the window hides, where sdpa computes and masks it"
    return "sdpa", "the fastest measured for most shapes, and it computes all"
