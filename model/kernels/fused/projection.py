"""Vectors of a matrix made unit in place (nGPT, 2410.01131, section 2.6).

A row is what one program holds. Columns take two kernels over row blocks x column blocks: the first leaves each row
block's sums of squares, the second adds them up and divides what it finds in the cache.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS, WARPS = 64, 64, 8  # of a tile
MAX_ROW = 16384  # entries of a row that one program holds


@triton.jit
def vector_norm(squares, floor: tl.constexpr):
    """The norms of vectors along the first dimension of their squares, or of sums of these, at least `floor`."""
    return tl.maximum(tl.sqrt_rn(tl.sum(squares, 0)), floor)


@triton.jit
def locate_tile(first, n_rows, n_columns, rows: tl.constexpr, columns: tl.constexpr):
    """Offsets (rows, columns) of this program's columns from row `first` on, and which are in the matrix."""
    row = first + tl.arange(0, rows)[:, None]
    column = tl.program_id(0) * columns + tl.arange(0, columns)[None, :]
    return row.to(tl.int64) * n_columns + column, (row < n_rows) & (column < n_columns)


@triton.jit
def store_sums(sums, squares, n_columns, columns: tl.constexpr):
    """The sums over rows of squares (rows, columns) as this program's part of sums (row blocks, n_columns)."""
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
    """Divide columns by their norms, at least `floor`; results are the same from run to run.

    `kernel(matrix, sums, n_rows, n_columns, row_block, rows, columns, *arguments)` runs first. It may change the
    matrix, and leaves in sums (row blocks, columns), float32, those of its squares.
    """
    n_rows, n_columns = matrix.shape
    row_block = max(ROWS, triton.next_power_of_2(math.isqrt(4 * n_rows)))  # few sums beside its entries
    n_blocks = triton.cdiv(n_rows, row_block)
    grid = (triton.cdiv(n_columns, COLUMNS), n_blocks)
    sums = torch.empty((n_blocks, n_columns), dtype=torch.float32, device=matrix.device)
    shared = matrix, sums, n_rows, n_columns, row_block, ROWS, COLUMNS
    kernel[grid](*shared, *arguments, num_warps=WARPS)
    _divide_columns[grid](*shared, triton.next_power_of_2(n_blocks), floor, num_warps=WARPS)


def can_project(matrix: Tensor, dim: int) -> bool:
    """Whether `project_in_place` takes it: a contiguous matrix of at most float32, its rows not too long."""
    is_matrix = matrix.dim() == 2 and matrix.is_contiguous() and matrix.dtype.itemsize <= 4
    return is_matrix and (dim == 0 or matrix.shape[1] <= MAX_ROW)


def project_in_place(matrix: Tensor, dim: int, floor: float) -> None:
    """Divide the vectors along `dim` by their norms, or by `floor` where a norm is less."""
    n_rows, n_columns = matrix.shape
    if dim == 1:
        block = triton.next_power_of_2(n_columns)
        _project_rows[(n_rows,)](matrix, n_columns, floor, block, num_warps=4 if block <= 2048 else 8)
    else:
        project_columns(matrix, floor)
