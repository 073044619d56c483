"""torch's scaled_dot_product_attention, which chooses among cuDNN, flash, memory-efficient and math kernels itself."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .bias import densify
from .call import BackendError, Call
from .masks import visible_keys

SINK_FEATURES = 8  # one would do; fused kernels want multiples of eight
# with enable_gqa above this width, or with k and v of different widths, SDPA falls back to math in silence
GQA_MAX_WIDTH = 256
MAX_PADDED_QUERIES = 8  # so few missing queries are cheaper to pad than a mask is


def attend_sdpa(call: Call) -> Tensor:
    if call.softcap is not None:
        raise BackendError("sdpa has no logit softcap; use flex or math")
    if call.sink is not None:
        return attend_sdpa(_prepend_sink(call, call.sink))
    q, k, v = (x.transpose(1, 2) for x in (call.q, call.k, call.v))
    n_queries, n_keys = q.shape[2], k.shape[2]
    n_missing = n_keys - n_queries
    is_plain = call.bias is None and (call.window is None or call.window >= n_keys)
    mask: Tensor | None = None
    is_causal = call.causal and n_queries > 1
    if is_plain and is_causal and 0 < n_missing <= MAX_PADDED_QUERIES:
        # is_causal aligns first query with first key: blank queries in front bring the last ones together
        q, n_missing = F.pad(q, (0, 0, n_missing, 0)), 0
    if not is_plain or (is_causal and n_missing):
        mask, is_causal = _form_mask(call), False
    is_gqa = q.shape[1] != k.shape[1]
    if is_gqa and (q.device.type == "cpu" or q.shape[-1] > GQA_MAX_WIDTH or q.shape[-1] != v.shape[-1]):
        n_rep, is_gqa = q.shape[1] // k.shape[1], False
        k, v = k.repeat_interleave(n_rep, dim=1), v.repeat_interleave(n_rep, dim=1)
    out = F.scaled_dot_product_attention(q, k, v, mask, 0.0, is_causal, scale=call.scale, enable_gqa=is_gqa)
    out = out[:, :, -n_queries:]
    if isinstance(call.bias, Tensor) and mask is not None:
        out = out.masked_fill(torch.isneginf(mask).all(-1, keepdim=True), 0.0)
    return out.transpose(1, 2)


def _form_mask(call: Call) -> Tensor:
    """Bias and visibility as one additive (b or 1, h or 1, t, s) or boolean (t, s) tensor."""
    seen_ts = visible_keys(call.q.shape[1], call.k.shape[1], call.causal, call.window, call.q.device)
    if call.bias is None:
        assert seen_ts is not None  # a mask is formed only where something is hidden
        return seen_ts
    bias = densify(call.bias)
    if seen_ts is not None:
        bias = bias.masked_fill(~seen_ts, -torch.inf)
    return bias.to(call.q.dtype)


def _prepend_sink(call: Call, sink_h: Tensor) -> Call:
    """The same call with the sink as a first key of value 0, its logit carried by extra features.

    q gets sink / scale there, the sink's key 1 and the others 0: so no mask is needed, and fused kernels stay possible.
    """
    b, t, h, _ = call.q.shape
    feature_bth1 = (sink_h / call.scale).to(call.q.dtype)[:, None].expand(b, t, h, 1)
    q = torch.cat((call.q, F.pad(feature_bth1, (0, SINK_FEATURES - 1))), dim=-1)
    k = F.pad(call.k, (0, SINK_FEATURES, 0, 0, 1, 0))
    k[:, 0, :, call.k.shape[-1]] = 1
    v = F.pad(call.v, (0, 0, 0, 0, 1, 0))
    if call.window is None and call.bias is None:
        return replace(call, q=q, k=k, v=v, sink=None)
    # a window would hide the oldest key, so it becomes part of the bias
    bias = _form_mask(replace(call, bias=torch.zeros(1, 1, 1, 1).to(call.q) if call.bias is None else call.bias))
    return replace(call, q=q, k=k, v=v, bias=F.pad(bias, (1, 0)), window=None, sink=None)
