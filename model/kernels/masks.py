"""Masks and sinks for kernels that lack some of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .call import Call, densify

SINK_FEATURES = 8  # one would do; fused kernels want multiples of eight


def visible_keys(n_queries: int, n_keys: int, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """A boolean mask (t, s), True where a key is seen, or None where every key is.

    The last query stands at the last key, so that the newest tokens of a cached sequence see all of it.
    """
    if (not causal or n_queries == 1) and (window is None or window >= n_keys):
        return None
    query_t1 = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]
    key_1s = torch.arange(n_keys, device=device)[None, :]
    mask_ts = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    if causal:
        mask_ts = mask_ts & (key_1s <= query_t1)
    if window is not None:
        mask_ts = mask_ts & (key_1s > query_t1 - window)
    return mask_ts


def form_mask(call: Call) -> Tensor:
    """Bias and visibility as one additive (b or 1, h or 1, t, s) or boolean (t, s) tensor."""
    seen_ts = visible_keys(call.q.shape[1], call.k.shape[1], call.causal, call.window, call.q.device)
    if call.bias is None:
        assert seen_ts is not None  # a mask is formed only where something is hidden
        return seen_ts
    bias = densify(call.bias)
    if seen_ts is not None:
        bias = bias.masked_fill(~seen_ts, -torch.inf)
    return bias.to(call.q.dtype)


def prepend_sink(call: Call, sink_h: Tensor) -> Call:
    """The same call with the sink as a first key of value 0, its logit carried by extra features.

    q gets sink / scale there, the sink's key 1 and the others 0, so that no mask is needed. A window and a bias are the
    caller's to adapt.
    """
    b, t, h, _ = call.q.shape
    feature_bth1 = (sink_h / call.scale).to(call.q.dtype)[:, None].expand(b, t, h, 1)
    q = torch.cat((call.q, F.pad(feature_bth1, (0, SINK_FEATURES - 1))), dim=-1)
    k = F.pad(call.k, (0, SINK_FEATURES, 0, 0, 1, 0))
    k[:, 0, :, call.k.shape[-1]] = 1
    return replace(call, q=q, k=k, v=F.pad(call.v, (0, 0, 0, 0, 1, 0)), sink=None)


def prepend_masked_sink(call: Call, sink_h: Tensor) -> Call:
    """The sink as a first key; a window, which would hide it, becomes part of the bias."""
    if call.window is None and call.bias is None:
        return prepend_sink(call, sink_h)
    bias = form_mask(replace(call, bias=call.q.new_zeros(1, 1, 1, 1) if call.bias is None else call.bias))
    bias = bias.expand(-1, -1, -1, call.k.shape[1])  # one entry for all keys is not one for the sink
    return replace(prepend_sink(call, sink_h), bias=F.pad(bias, (1, 0)), window=None)
