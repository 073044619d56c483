"""Kernels in Triton, where Inductor's or eager ones pass over memory more often than they must. NVIDIA GPUs only.

Imported only where Triton is; each has a twin in plain torch that runs everywhere else, and tests that compare them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOGITS_BLOCK = 4096
COLUMN_BLOCK, ROW_BLOCK = 16, 64  # of `_project_columns`: enough programs for a matrix of a thousand columns
MAX_ROW = 16384  # entries of a row that one program holds


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
    """The share of `n_counted` targets' mean loss, and the gradient by the logits, which takes their place.

    One program a row: what a second pass reads again is still in the cache.
    """
    n, v = logits_nv.shape
    losses_n = torch.empty(n, dtype=torch.float32, device=logits_nv.device)
    _differentiate[(n,)](
        logits_nv, targets_n, losses_n, n_counted, v, ignored, with_gradient, LOGITS_BLOCK, num_warps=8
    )
    return losses_n.sum(), logits_nv


@triton.jit
def _project_rows(matrix, n_columns, floor: tl.constexpr, block: tl.constexpr):
    offsets = tl.arange(0, block)
    place = matrix + tl.program_id(0).to(tl.int64) * n_columns + offsets
    x = tl.load(place, mask=offsets < n_columns, other=0.0).to(tl.float32)
    norm = tl.maximum(tl.sqrt_rn(tl.sum(x * x, 0)), floor)
    tl.store(place, (x / norm).to(matrix.dtype.element_ty), mask=offsets < n_columns)


@triton.jit
def _project_columns(
    matrix, n_rows, n_columns, floor: tl.constexpr, row_block: tl.constexpr, column_block: tl.constexpr
):
    columns = tl.program_id(0) * column_block + tl.arange(0, column_block)[None, :]
    rows = tl.arange(0, row_block)[:, None]
    total = tl.zeros((row_block, column_block), tl.float32)
    for first in range(0, n_rows, row_block):
        is_there = (first + rows < n_rows) & (columns < n_columns)
        x = tl.load(matrix + (first + rows).to(tl.int64) * n_columns + columns, mask=is_there, other=0.0)
        total += x.to(tl.float32) * x.to(tl.float32)
    norm = tl.maximum(tl.sqrt_rn(tl.sum(total, 0)), floor)[None, :]
    for first in range(0, n_rows, row_block):
        is_there = (first + rows < n_rows) & (columns < n_columns)
        place = matrix + (first + rows).to(tl.int64) * n_columns + columns
        x = tl.load(place, mask=is_there, other=0.0).to(tl.float32)
        tl.store(place, (x / norm).to(matrix.dtype.element_ty), mask=is_there)


def can_project(matrix: Tensor, dim: int) -> bool:
    """Whether `project_in_place` takes it: a contiguous matrix of at most float32, its rows not too long."""
    is_matrix = matrix.dim() == 2 and matrix.is_contiguous() and matrix.dtype.itemsize <= 4
    return is_matrix and (dim == 0 or matrix.shape[1] <= MAX_ROW)


def project_in_place(matrix: Tensor, dim: int, floor: float) -> None:
    """Divide the vectors along `dim` by their norms, or by `floor` where a norm is less: read once, written once."""
    n_rows, n_columns = matrix.shape
    if dim == 1:
        block = triton.next_power_of_2(n_columns)
        _project_rows[(n_rows,)](matrix, n_columns, floor, block, num_warps=4 if block <= 2048 else 8)
    else:
        grid = (triton.cdiv(n_columns, COLUMN_BLOCK),)
        _project_columns[grid](matrix, n_rows, n_columns, floor, ROW_BLOCK, COLUMN_BLOCK, num_warps=4)
