"""softmax(scale Q K^T + bias) V for every attention, on a backend that fits the shape and the machine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import describe_unknown
from .call import BackendError, Call, DecayBias
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


def attend(call: Call, backend: str) -> Tensor:
    """Compute softmax(softcap(scale q k^T) + bias) v: (b, t, h, v). functional.py says what each part means.

    Raises BackendError when `backend` is unknown, or is named and cannot compute the call.
    """
    name = choose(call)[0] if backend == "auto" else backend
    if name not in BACKENDS:
        raise BackendError(f"{describe_unknown(name, BACKENDS, 'backend')} (legal: auto, {', '.join(BACKENDS)})")
    return BACKENDS[name](call)


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
