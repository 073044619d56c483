"""The reference implementation of attention, in at least float32."""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics import upcast
from .call import Call, densify
from .masks import visible_keys


def attend_math(call: Call) -> Tensor:
    """Compute every map, with T^2 memory. For tests, small runs, and calls that no other backend can compute."""
    with torch.autocast(call.q.device.type, enabled=False):
        q, k, v = upcast(call.q), upcast(call.k), upcast(call.v)
        n_rep = q.shape[2] // k.shape[2]
        k, v = k.repeat_interleave(n_rep, dim=2), v.repeat_interleave(n_rep, dim=2)
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
        if call.sink is not None:
            sink_bht1 = upcast(call.sink)[:, None, None].expand(*logits_bhts.shape[:3], 1)
            logits_bhts = torch.cat((sink_bht1, logits_bhts), dim=-1)
        is_blind_bht1 = torch.isneginf(logits_bhts).all(-1, keepdim=True)
        weights_bhts = logits_bhts.masked_fill(is_blind_bht1, 0.0).softmax(-1).masked_fill(is_blind_bht1, 0.0)
        weights_bhts = weights_bhts[..., -k.shape[1] :]
        return torch.einsum("bhts,bshv->bthv", weights_bhts, v).to(call.v.dtype)
