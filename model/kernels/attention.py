"""softmax(scale Q K^T + bias) V for every attention, on the backend that shape and machine allow."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..errors import describe_unknown
from .bias import Bias
from .call import BackendError, Call
from .math import attend_math
from .sdpa import attend_sdpa

BACKENDS: dict[str, Callable[[Call], Tensor]] = {"sdpa": attend_sdpa, "math": attend_math}


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
) -> Tensor:
    """softmax(softcap(scale q k^T) + bias) v -> (b, t, h, v).

    q (b, t, h, d); k (b, s, g, d); v (b, s, g, v); query head j uses key head j // (h / g); v may differ from d.
    The last query stands at the last key. `scale` defaults to d^-1/2; `window` counts the newest keys a query sees,
    itself included; `bias` broadcasts to (b, h, t, s) and may hold -inf; `softcap` c turns logits z into c tanh(z / c).
    `sink` (h,) is the logit of one more key, seen by all, whose value is 0. A query that sees no key gets 0.

    Raises BackendError when `backend` is unknown or, asked for by name, cannot compute the call.
    """
    call = Call(
        q, k, v, causal, q.shape[-1] ** -0.5 if scale is None else scale, window, bias, softcap, sink, deterministic
    )
    if backend == "auto":
        backend = "math" if softcap is not None else "sdpa"
    if backend not in BACKENDS:
        raise BackendError(f"{describe_unknown(backend, BACKENDS, 'backend')} (legal: auto, {', '.join(BACKENDS)})")
    return BACKENDS[backend](call)
