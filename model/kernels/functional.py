"""Attention as a function of tensors, for use without a layer."""

from __future__ import annotations

from torch import Tensor

from .attention import attend
from .call import Bias, Call


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
