"""Which keys a query sees."""

from __future__ import annotations

import torch
from torch import Tensor


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
