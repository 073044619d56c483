"""nGPT's update of the residual stream (2410.01131, equations 10 and 11) in one pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from ..unit_vectors import NOISE_NORM
from .launch import launch

ROWS, ENTRIES = 8, 1024  # vectors that a program updates one after another; entries per warp


def lerp_norm(h: Tensor, y: Tensor, alpha: Tensor) -> Tensor:
    """Compute Norm(h + alpha (Norm(y) - h)) of vectors (..., d) in float32; alpha is (d,) or one number.

    Vectors shorter than NOISE_NORM become 0.
    """
    moved: Tensor = _lerp_norm(h, y, _spread(alpha, h), False)[0]
    return moved


def lerp_norm_twice(h: Tensor, y: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `lerp_norm`, and a copy in y's type for 16-bit products, without passes to cast and add gradients."""
    has_copy = y.dtype != torch.float32
    moved, copy = _lerp_norm(h, y, _spread(alpha, h), has_copy)
    return moved, copy if has_copy else moved


def _spread(alpha: Tensor, h: Tensor) -> Tensor:
    return alpha.float().expand(h.shape[-1]).contiguous()


@triton.jit
def _load_unit(x, row, columns, D: tl.constexpr, NOISE: tl.constexpr):
    """Load a vector scaled to unit length, and 1 / its norm."""
    vector = tl.load(x + row * D + columns, columns < D, 0.0).to(tl.float32)
    norm = tl.sqrt(tl.sum(vector * vector, 0))
    inverse = 1.0 / tl.where(norm < NOISE, float("inf"), norm)
    return vector * inverse, inverse


@triton.jit
def _lerp_norm_forward(
    h, y, alpha, out, copy, n_rows,
    HAS_COPY: tl.constexpr, NOISE: tl.constexpr, D: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, P)
    a = tl.load(alpha + columns, columns < D, 0.0)
    for i in range(ROWS):
        row = (tl.program_id(0) * ROWS + i).to(tl.int64)
        if row < n_rows:
            target, _ = _load_unit(y, row, columns, D, NOISE)
            h_row = tl.load(h + row * D + columns, columns < D, 0.0).to(tl.float32)
            moved = h_row + a * (target - h_row)
            norm = tl.sqrt(tl.sum(moved * moved, 0))
            moved = moved / tl.where(norm < NOISE, float("inf"), norm)
            tl.store(out + row * D + columns, moved, columns < D)
            if HAS_COPY:
                tl.store(copy + row * D + columns, moved.to(copy.dtype.element_ty), columns < D)


@triton.jit
def _lerp_norm_grad(
    g, g_copy, h, y, alpha, by_h, by_y, by_alpha, n_rows,
    HAS_COPY: tl.constexpr, NOISE: tl.constexpr, D: tl.constexpr, P: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, P)
    a = tl.load(alpha + columns, columns < D, 0.0)
    sum_alpha = tl.zeros((P,), tl.float32)
    for i in range(ROWS):
        row = (tl.program_id(0) * ROWS + i).to(tl.int64)
        if row < n_rows:
            target, inverse_y = _load_unit(y, row, columns, D, NOISE)
            h_row = tl.load(h + row * D + columns, columns < D, 0.0).to(tl.float32)
            g_row = tl.load(g + row * D + columns, columns < D, 0.0).to(tl.float32)
            if HAS_COPY:
                g_row += tl.load(g_copy + row * D + columns, columns < D, 0.0).to(tl.float32)
            moved = h_row + a * (target - h_row)
            norm = tl.sqrt(tl.sum(moved * moved, 0))
            inverse = 1.0 / tl.where(norm < NOISE, float("inf"), norm)
            unit = moved * inverse
            by_moved = (g_row - unit * tl.sum(g_row * unit, 0)) * inverse
            sum_alpha += by_moved * (target - h_row)
            by_target = by_moved * a
            by_y_row = (by_target - target * tl.sum(by_target * target, 0)) * inverse_y
            tl.store(by_h + row * D + columns, (by_moved - by_target).to(by_h.dtype.element_ty), columns < D)
            tl.store(by_y + row * D + columns, by_y_row.to(by_y.dtype.element_ty), columns < D)
    tl.store(by_alpha + tl.program_id(0) * D + columns, sum_alpha, columns < D)


def _sizes(d: int) -> dict[str, Any]:
    p = triton.next_power_of_2(d)
    return {"NOISE": NOISE_NORM, "D": d, "P": p, "ROWS": ROWS, "num_warps": max(1, min(16, p // ENTRIES))}


@triton_op("ablate::lerp_norm", mutates_args={})
def _lerp_norm(h: Tensor, y: Tensor, alpha: Tensor, has_copy: bool) -> tuple[Tensor, Tensor]:
    h, y = h.contiguous(), y.contiguous()
    d = h.shape[-1]
    n_rows = h.numel() // d
    out = torch.empty(h.shape, dtype=torch.float32, device=h.device)
    copy = torch.empty(h.shape if has_copy else (0,), dtype=y.dtype, device=h.device)
    grid = (triton.cdiv(n_rows, ROWS),)
    launch(_lerp_norm_forward, grid, h, y, alpha, out, copy, n_rows, HAS_COPY=has_copy, **_sizes(d))
    return out, copy


@triton_op("ablate::lerp_norm_backward", mutates_args={})
def _lerp_norm_backward(
    g: Tensor, g_copy: Tensor | None, h: Tensor, y: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    g, h, y = g.contiguous(), h.contiguous(), y.contiguous()
    g_copy = None if g_copy is None else g_copy.contiguous()
    d = h.shape[-1]
    n_rows = h.numel() // d
    n_programs = triton.cdiv(n_rows, ROWS)
    by_h, by_y = torch.empty_like(h), torch.empty_like(y)
    by_alpha = torch.empty((n_programs, d), dtype=torch.float32, device=h.device)
    tensors = g, g_copy, h, y, alpha, by_h, by_y, by_alpha
    launch(_lerp_norm_grad, (n_programs,), *tensors, n_rows, HAS_COPY=g_copy is not None, **_sizes(d))
    return by_h, by_y, by_alpha.sum(0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.has_copy = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, g: Tensor, g_copy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    by_h, by_y, by_alpha = _lerp_norm_backward(g, g_copy if ctx.has_copy else None, *ctx.saved_tensors)
    return by_h, by_y, by_alpha, None


_lerp_norm.register_autograd(_differentiate, setup_context=_keep)
