"""Projection of a matrix's vectors to the unit sphere, in place (nGPT, 2410.01131, section 2.6).

Each row has its own program. Columns take two kernels over row blocks x column blocks: the first stores the sums of
squares of each row block, the second adds them up and divides the entries, which are still in the cache.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS, WARPS = 64, 64, 8  # per tile
MAX_ROW = 16384  # entries of a row that fits into one program


@triton.jit
def vector_norm(squares, floor: tl.constexpr):
    """Return norms, at least `floor`, of vectors whose squares (or sums of squares) run along the first dimension."""
    return tl.maximum(tl.sqrt_rn(tl.sum(squares, 0)), floor)


@triton.jit
def locate_tile(first, n_rows, n_columns, rows: tl.constexpr, columns: tl.constexpr):
    """Return offsets (rows, columns) of this program's columns from row `first` on, and which are in the matrix."""
    row = first + tl.arange(0, rows)[:, None]
    column = tl.program_id(0) * columns + tl.arange(0, columns)[None, :]
    return row.to(tl.int64) * n_columns + column, (row < n_rows) & (column < n_columns)


@triton.jit
def store_sums(sums, squares, n_columns, columns: tl.constexpr):
    """Store the sums over rows of squares (rows, columns) as this program's part of sums (row blocks, n_columns)."""
    column = tl.program_id(0) * columns + tl.arange(0, columns)
    tl.store(sums + tl.program_id(1) * n_columns + column, tl.sum(squares, 0), column < n_columns)


@triton.jit
def _project_rows(matrix, n_columns, floor: tl.constexpr, block: tl.constexpr):
    offsets = tl.arange(0, block)
    place = matrix + tl.program_id(0).to(tl.int64) * n_columns + offsets
    x = tl.load(place, mask=offsets < n_columns, other=0.0).to(tl.float32)
    tl.store(place, (x / vector_norm(x * x, floor)).to(matrix.dtype.element_ty), mask=offsets < n_columns)


@triton.jit
def _sum_columns(
    matrix, sums, n_rows, n_columns: tl.constexpr, row_block: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr
):  # fmt: skip
    squares = tl.zeros((rows, columns), tl.float32)
    for first in range(0, row_block, rows):
        place, is_there = locate_tile(tl.program_id(1) * row_block + first, n_rows, n_columns, rows, columns)
        x = tl.load(matrix + place, is_there, 0.0).to(tl.float32)
        squares += x * x
    store_sums(sums, squares, n_columns, columns)


@triton.jit
def _divide_columns(
    matrix, sums, n_rows, n_columns: tl.constexpr,
    row_block: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, n_sums: tl.constexpr, floor: tl.constexpr,
):  # fmt: skip
    part, is_part = locate_tile(0, tl.num_programs(1), n_columns, n_sums, columns)
    norm = vector_norm(tl.load(sums + part, is_part, 0.0), floor)
    for first in range(0, row_block, rows):
        place, is_there = locate_tile(tl.program_id(1) * row_block + first, n_rows, n_columns, rows, columns)
        x = tl.load(matrix + place, is_there, 0.0).to(tl.float32)
        tl.store(matrix + place, (x / norm[None, :]).to(matrix.dtype.element_ty), is_there)


def project_columns(matrix: Tensor, floor: float, kernel: Any = _sum_columns, *arguments: Any) -> None:
    """Divide columns by their norms, at least `floor`; the result is deterministic.

    `kernel(matrix, sums, n_rows, n_columns, row_block, rows, columns, *arguments)` runs first. It may change the
    matrix, and stores the sums of its squares in sums (row blocks, columns), float32.
    """
    n_rows, n_columns = matrix.shape
    row_block = max(ROWS, triton.next_power_of_2(math.isqrt(4 * n_rows)))  # few sums compared with its entries
    n_blocks = triton.cdiv(n_rows, row_block)
    grid = (triton.cdiv(n_columns, COLUMNS), n_blocks)
    sums = torch.empty((n_blocks, n_columns), dtype=torch.float32, device=matrix.device)
    shared = matrix, sums, n_rows, n_columns, row_block, ROWS, COLUMNS
    kernel[grid](*shared, *arguments, num_warps=WARPS)
    _divide_columns[grid](*shared, triton.next_power_of_2(n_blocks), floor, num_warps=WARPS)


def can_project(matrix: Tensor, dim: int) -> bool:
    """Whether `project_in_place` takes the matrix: contiguous, at most float32, with rows that are not too long."""
    is_matrix = matrix.dim() == 2 and matrix.is_contiguous() and matrix.dtype.itemsize <= 4
    return is_matrix and (dim == 0 or matrix.shape[1] <= MAX_ROW)


def project_in_place(matrix: Tensor, dim: int, floor: float) -> None:
    """Divide the vectors along `dim` by their norms, or by `floor` if a norm is smaller."""
    n_rows, n_columns = matrix.shape
    if dim == 1:
        block = triton.next_power_of_2(n_columns)
        _project_rows[(n_rows,)](matrix, n_columns, floor, block, num_warps=4 if block <= 2048 else 8)
    else:
        project_columns(matrix, floor)
