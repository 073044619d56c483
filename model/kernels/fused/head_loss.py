"""Softmax cross-entropy of logits, read once, and their gradient, written in their place."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, WARPS = 2048, 8  # entries at once and warps of a program


@triton.jit
def _differentiate(
    logits,
    targets,
    losses,
    n_counted,
    n_entries,
    ignored: tl.constexpr,
    with_gradient: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0)
    start = logits + row.to(tl.int64) * n_entries
    target = tl.load(targets + row)
    share = 1.0 / tl.load(n_counted).to(tl.float32)
    offsets = tl.arange(0, block)
    largest = tl.full((block,), float("-inf"), tl.float32)
    total = tl.zeros((block,), tl.float32)
    for first in range(0, n_entries, block):
        z = tl.load(start + first + offsets, mask=first + offsets < n_entries, other=float("-inf")).to(tl.float32)
        new = tl.maximum(largest, z)
        finite = tl.where(new == float("-inf"), 0.0, new)  # a lane without an entry so far
        total = total * tl.exp(largest - finite) + tl.exp(z - finite)
        largest = new
    peak = tl.max(largest, 0)
    lse = peak + tl.log(tl.sum(total * tl.exp(largest - peak), 0))
    is_counted = target != ignored
    at_target = tl.load(start + tl.where(is_counted, target, 0)).to(tl.float32)
    uncounted = 0.0 * share  # or NaN, where no target counts
    tl.store(losses + row, tl.where(is_counted, (lse - at_target) * share, uncounted))
    if with_gradient:
        share = tl.where(is_counted, share, uncounted)
        tl.debug_barrier()  # the target's logit is read before any lane overwrites it
        for first in range(0, n_entries, block):
            is_there = first + offsets < n_entries
            z = tl.load(start + first + offsets, mask=is_there, other=float("-inf")).to(tl.float32)
            p = tl.exp(z - lse)
            d = tl.where(first + offsets == target, p - 1.0, p) * share
            tl.store(start + first + offsets, d.to(logits.dtype.element_ty), mask=is_there)


def differentiate_in_place(
    logits_nv: Tensor, targets_n: Tensor, n_counted: Tensor, ignored: int, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Return this share of the mean loss of `n_counted` targets, and the gradient, which overwrites the logits.

    One program per row, so that the second pass finds the row in the cache.
    """
    n, v = logits_nv.shape
    losses_n = torch.empty(n, dtype=torch.float32, device=logits_nv.device)
    _differentiate[(n,)](logits_nv, targets_n, losses_n, n_counted, v, ignored, with_gradient, BLOCK, num_warps=WARPS)
    return losses_n.sum(), logits_nv
