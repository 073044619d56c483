"""The reference implementation of attention, in at least float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..numerics import upcast
from .call import Call, densify
from .masks import visible_keys


def attend_math(call: Call, change: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Compute every map, with T^2 memory. For tests, small runs, and calls that no other backend can compute.

    `change` maps the logits (b, h, t, s), -inf where a query does not see a key, to others.
    """
    with torch.autocast(call.q.device.type, enabled=False):
        logits_bhts = form_logits(call)
        weights_bhts = form_maps(call, logits_bhts if change is None else change(logits_bhts))
        v = upcast(call.v).repeat_interleave(call.q.shape[2] // call.k.shape[2], dim=2)
        return torch.einsum("bhts,bshv->bthv", weights_bhts, v).to(call.v.dtype)


def form_logits(call: Call) -> Tensor:
    """Compute the logits (b, h, t, s) with the softcap and the bias, and -inf where a query does not see a key."""
    q, k = upcast(call.q), upcast(call.k)
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    logits_bhts = torch.einsum("bthd,bshd->bhts", q, k) * call.scale
    if call.softcap is not None:
        logits_bhts = call.softcap * torch.tanh(logits_bhts / call.softcap)
    if call.bias is not None:
        logits_bhts = logits_bhts + densify(call.bias)
    mask_ts = visible_keys(q.shape[1], k.shape[1], call.causal, call.window, q.device)
    if mask_ts is not None:
        logits_bhts = logits_bhts.masked_fill(~mask_ts, -torch.inf)
    if call.seen is not None:
        logits_bhts = logits_bhts.masked_fill(~call.seen[:, None, None], -torch.inf)
    return logits_bhts


def form_maps(call: Call, logits_bhts: Tensor) -> Tensor:
    """Turn the logits of a call into its maps (b, h, t, s). A query that sees no key gets a row of zeros."""
    if call.sink is not None:
        sink_bht1 = upcast(call.sink)[:, None, None].expand(*logits_bhts.shape[:3], 1)
        logits_bhts = torch.cat((sink_bht1, logits_bhts), dim=-1)
    is_blind_bht1 = torch.isneginf(logits_bhts).all(-1, keepdim=True)
    weights_bhts = logits_bhts.masked_fill(is_blind_bht1, 0.0).softmax(-1).masked_fill(is_blind_bht1, 0.0)
    return weights_bhts[..., -call.k.shape[1] :]
