"""Masks and sinks for kernels that lack some of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .call import Call, DecayBias, densify

SINK_FEATURES = 8  # one would be enough, but fused kernels need multiples of eight


def visible_keys(n_queries: int, n_keys: int, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """Return a boolean mask (t, s), True where a key is seen, or None if every key is seen.

    The last query is at the position of the last key, so that the newest tokens of a cached sequence see all of it.
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
    """Combine bias and visibility in one additive (b or 1, h or 1, t, s) or boolean (t, s) or (b, 1, t, s) tensor."""
    seen = visible_keys(call.q.shape[1], call.k.shape[1], call.causal, call.window, call.q.device)
    if call.seen is not None:
        seen_b11s = call.seen[:, None, None]
        seen = seen_b11s.expand(-1, -1, call.q.shape[1], -1) if seen is None else seen_b11s & seen
    if call.bias is None:
        assert seen is not None  # the caller asks for a mask only if a key is hidden
        return seen
    bias = densify(call.bias)
    if seen is not None:
        bias = bias.masked_fill(~seen, -torch.inf)
    return bias.to(call.q.dtype)


def select_queries(call: Call, queries_n: Tensor) -> Call:
    """Return the call of some queries only: their numbers, (n,) for all sequences or (b, n) for each.

    The logits of these queries then take memory in proportion to n. The bias of the result holds the mask.
    """
    (b, t), s = call.q.shape[:2], call.k.shape[1]
    rows_bn = queries_n.expand(b, -1)
    which_b1 = torch.arange(b, device=rows_bn.device)[:, None]
    bias: Tensor | None = None
    if isinstance(call.bias, DecayBias):
        bias = replace_queries(call.bias, rows_bn).dense()
    elif call.bias is not None:
        bias = call.bias.expand(b, -1, t, s)[which_b1, :, rows_bn].transpose(1, 2)
    seen_ts = visible_keys(t, s, call.causal, call.window, call.q.device)
    if seen_ts is not None:
        seen = seen_ts[queries_n] if queries_n.dim() == 1 else seen_ts[rows_bn][:, None]
        blank = call.q.new_zeros(1, 1, 1, 1, dtype=torch.promote_types(call.q.dtype, torch.float32))
        bias = (blank if bias is None else bias).masked_fill(~seen, -torch.inf)
    return replace(call, q=call.q[which_b1, rows_bn], causal=False, window=None, bias=bias)


def replace_queries(bias: DecayBias, rows_bn: Tensor) -> DecayBias:
    """Return the bias of the queries (b, n) only."""
    rows_bhn = rows_bn[:, None].expand(-1, bias.query_bht.shape[1], -1)
    return bias._replace(query_bht=bias.query_bht.gather(2, rows_bhn))


def open_blind_rows(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Let queries that see no key see all keys, and return also which these are (..., t, 1).

    A kernel would divide 0 by 0 there, forward or backward. The caller replaces their outputs by 0.
    """
    if mask.dtype == torch.bool:
        is_blind = ~mask.any(-1, keepdim=True)
        return mask | is_blind, is_blind
    is_blind = torch.isneginf(mask).all(-1, keepdim=True)
    return mask.masked_fill(is_blind, 0.0), is_blind


def prepend_sink(call: Call, sink_h: Tensor) -> Call:
    """Return the call with the sink as a first key of value 0. Extra features carry its logit.

    In them q is sink / scale, the sink's key is 1 and the other keys are 0, so that no mask is needed. The caller
    adapts a window and a bias.
    """
    b, t, h, _ = call.q.shape
    feature_bth1 = (sink_h / call.scale).to(call.q.dtype)[:, None].expand(b, t, h, 1)
    q = torch.cat((call.q, F.pad(feature_bth1, (0, SINK_FEATURES - 1))), dim=-1)
    k = F.pad(call.k, (0, SINK_FEATURES, 0, 0, 1, 0))
    k[:, 0, :, call.k.shape[-1]] = 1
    return replace(call, q=q, k=k, v=F.pad(call.v, (0, 0, 0, 0, 1, 0)), sink=None)


def prepend_masked_sink(call: Call, sink_h: Tensor) -> Call:
    """Prepend the sink as a key; a window, which would hide it, becomes part of the bias."""
    if call.window is None and call.bias is None:
        seen = None if call.seen is None else F.pad(call.seen, (1, 0), value=True)
        return replace(prepend_sink(call, sink_h), seen=seen)
    bias = form_mask(replace(call, bias=call.q.new_zeros(1, 1, 1, 1) if call.bias is None else call.bias))
    bias = bias.expand(-1, -1, -1, call.k.shape[1])  # an entry that broadcasts to all keys must not reach the sink
    return replace(prepend_sink(call, sink_h), bias=F.pad(bias, (1, 0)), window=None, seen=None)
