"""Vectors of a matrix made unit in place (nGPT, 2410.01131, section 2.6): read once, written once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

COLUMNS, ROWS = 16, 64  # of `_project_columns`: enough programs for a matrix of a thousand columns
MAX_ROW = 16384  # entries of a row that one program holds


@triton.jit
def vector_norm(squares, floor: tl.constexpr):
    """The norms of vectors along the first dimension of their squares, at least `floor`."""
    return tl.maximum(tl.sqrt_rn(tl.sum(squares, 0)), floor)


@triton.jit
def divide_columns(matrix, norm, columns, n_rows, n_columns, row_block: tl.constexpr):
    """Columns (1, c) of the matrix over their norms (c,), in place."""
    rows = tl.arange(0, row_block)[:, None]
    for first in range(0, n_rows, row_block):
        is_there = (first + rows < n_rows) & (columns < n_columns)
        place = matrix + (first + rows).to(tl.int64) * n_columns + columns
        x = tl.load(place, mask=is_there, other=0.0).to(tl.float32)
        tl.store(place, (x / norm[None, :]).to(matrix.dtype.element_ty), mask=is_there)


@triton.jit
def _project_rows(matrix, n_columns, floor: tl.constexpr, block: tl.constexpr):
    offsets = tl.arange(0, block)
    place = matrix + tl.program_id(0).to(tl.int64) * n_columns + offsets
    x = tl.load(place, mask=offsets < n_columns, other=0.0).to(tl.float32)
    tl.store(place, (x / vector_norm(x * x, floor)).to(matrix.dtype.element_ty), mask=offsets < n_columns)


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
    divide_columns(matrix, vector_norm(total, floor), columns, n_rows, n_columns, row_block)


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
        grid = (triton.cdiv(n_columns, COLUMNS),)
        _project_columns[grid](matrix, n_rows, n_columns, floor, ROWS, COLUMNS, num_warps=4)
