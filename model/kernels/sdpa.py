"""torch's scaled_dot_product_attention, which chooses among cuDNN, flash, memory-efficient and math kernels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .call import BackendError, Call
from .masks import form_mask, open_blind_rows, prepend_masked_sink

# SDPA silently falls back to math with enable_gqa above this width, or with k and v of different widths
GQA_MAX_WIDTH = 256
WIDTH_STEP = 8
MAX_PADDED_QUERIES = 8  # up to this number, padding the missing queries is cheaper than a mask


def attend_sdpa(call: Call) -> Tensor:
    """Compute the call with SDPA. Raises BackendError for a softcap, which SDPA lacks."""
    if call.softcap is not None:
        raise BackendError("sdpa has no logit softcap; use flex or math")
    q, k, v, mask, is_causal, is_gqa = form_arguments(call)
    is_blind: Tensor | None = None
    if call.seen is not None and mask is not None and call.sink is None:
        mask, is_blind = open_blind_rows(mask)
    out = F.scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, scale=call.scale, enable_gqa=is_gqa)
    out = out[:, :, -call.q.shape[1] :, : call.v.shape[-1]]
    if is_blind is not None:
        out = out.masked_fill(is_blind, 0.0)
    elif isinstance(call.bias, Tensor) and mask is not None and call.sink is None:
        out = out.masked_fill(torch.isneginf(mask).all(-1, keepdim=True), 0.0)
    return out.transpose(1, 2)


def form_arguments(call: Call) -> tuple[Tensor, Tensor, Tensor, Tensor | None, bool, bool]:
    """Return q, k, v in SDPA's layout (b, h, t, d), its mask, and its flags for causality and grouped heads."""
    if call.sink is not None:
        call = prepend_masked_sink(call, call.sink)
    q, k, v = (x.transpose(1, 2) for x in (call.q, call.k, call.v))
    n_queries, n_keys = q.shape[2], k.shape[2]
    n_missing = n_keys - n_queries
    is_plain = call.bias is None and call.seen is None and (call.window is None or call.window >= n_keys)
    mask: Tensor | None = None
    is_causal = call.causal and n_queries > 1
    if is_plain and is_causal and 0 < n_missing <= MAX_PADDED_QUERIES:
        # is_causal aligns the first query with the first key; blank queries in front align the last ones instead
        q, n_missing = F.pad(q, (0, 0, n_missing, 0)), 0
    if not is_plain or (is_causal and n_missing):
        mask, is_causal = form_mask(call), False
    if q.device.type != "cpu":
        q, k, v = (_align(x) for x in (q, k, v))
    is_gqa = q.shape[1] != k.shape[1]
    if is_gqa and (q.device.type == "cpu" or q.shape[-1] > GQA_MAX_WIDTH or q.shape[-1] != v.shape[-1]):
        n_rep, is_gqa = q.shape[1] // k.shape[1], False
        k, v = k.repeat_interleave(n_rep, dim=1), v.repeat_interleave(n_rep, dim=1)
    return q, k, v, mask, is_causal, is_gqa


def _align(x: Tensor) -> Tensor:
    """Pad to a width that fused kernels take; otherwise SDPA falls back to math, as for maps of 42 features."""
    return x if x.shape[-1] % WIDTH_STEP == 0 else F.pad(x, (0, -x.shape[-1] % WIDTH_STEP))
