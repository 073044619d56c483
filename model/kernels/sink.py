"""The sink as an ordinary key, for kernels that know no sinks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from .call import Call

SINK_FEATURES = 8  # one would do; fused kernels want multiples of eight


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
