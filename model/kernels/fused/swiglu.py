"""SwiGLU with a scale a hidden feature (GLU Variants, 2002.05202; nGPT, 2410.01131, equations 20 and 21) in one pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from .launch import launch

ROWS, FEATURES, TILES = 16, 128, 4  # a program walks down TILES tiles of ROWS x FEATURES


def swiglu(hidden: Tensor, scale: Tensor | None) -> Tensor:
    """u s_u * SiLU(v s_v), u and v the halves of hidden (..., 2 f), s (2 f,): (..., f), computed in float32."""
    activated: Tensor = _swiglu(hidden, scale)
    return activated


@triton.jit
def _load_halves(hidden, scale, rows, features, is_entry, F: tl.constexpr, HAS_SCALE: tl.constexpr):
    """Both halves as they are, and their scales."""
    place = hidden + rows[:, None].to(tl.int64) * (2 * F) + features[None, :]
    u, v = tl.load(place, is_entry, 0.0).to(tl.float32), tl.load(place + F, is_entry, 0.0).to(tl.float32)
    scale_u = tl.full((1, features.shape[0]), 1.0, tl.float32)
    scale_v = scale_u
    if HAS_SCALE:
        scale_u = tl.load(scale + features, features < F, 0.0)[None, :]
        scale_v = tl.load(scale + F + features, features < F, 0.0)[None, :]
    return u, v, scale_u, scale_v


@triton.jit
def _forward(
    hidden, scale, out, n_rows, F: tl.constexpr, HAS_SCALE: tl.constexpr,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    features = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    for tile in range(TILES):
        rows = (tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        is_entry = (rows < n_rows)[:, None] & (features < F)[None, :]
        u, v, scale_u, scale_v = _load_halves(hidden, scale, rows, features, is_entry, F, HAS_SCALE)
        v = v * scale_v
        y = u * scale_u * v * tl.sigmoid(v)
        tl.store(out + rows[:, None].to(tl.int64) * F + features[None, :], y.to(out.dtype.element_ty), is_entry)


@triton.jit
def _backward(
    g, hidden, scale, by_hidden, by_scale, n_rows, F: tl.constexpr, HAS_SCALE: tl.constexpr,
    ROWS: tl.constexpr, FEATURES: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    features = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
    sum_u = tl.zeros((FEATURES,), tl.float32)
    sum_v = tl.zeros((FEATURES,), tl.float32)
    for tile in range(TILES):
        rows = (tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        is_entry = (rows < n_rows)[:, None] & (features < F)[None, :]
        u, v, scale_u, scale_v = _load_halves(hidden, scale, rows, features, is_entry, F, HAS_SCALE)
        g_tile = tl.load(g + rows[:, None].to(tl.int64) * F + features[None, :], is_entry, 0.0).to(tl.float32)
        scaled_v = v * scale_v
        gate = tl.sigmoid(scaled_v)
        by_u = g_tile * scaled_v * gate
        by_v = g_tile * u * scale_u * gate * (1 + scaled_v * (1 - gate))
        place = by_hidden + rows[:, None].to(tl.int64) * (2 * F) + features[None, :]
        tl.store(place, (by_u * scale_u).to(by_hidden.dtype.element_ty), is_entry)
        tl.store(place + F, (by_v * scale_v).to(by_hidden.dtype.element_ty), is_entry)
        if HAS_SCALE:
            sum_u += tl.sum(by_u * u, 0)
            sum_v += tl.sum(by_v * v, 0)
    if HAS_SCALE:
        partial = by_scale + tl.program_id(0) * (2 * F) + features
        tl.store(partial, sum_u, features < F)
        tl.store(partial + F, sum_v, features < F)


def _grid(n_rows: int, n_features: int) -> tuple[int, int]:
    return triton.cdiv(n_rows, ROWS * TILES), triton.cdiv(n_features, FEATURES)


@triton_op("ablate::swiglu", mutates_args={})
def _swiglu(hidden: Tensor, scale: Tensor | None) -> Tensor:
    hidden = hidden.contiguous()
    f = hidden.shape[-1] // 2
    n_rows = hidden.numel() // (2 * f)
    out = torch.empty((*hidden.shape[:-1], f), dtype=hidden.dtype, device=hidden.device)
    launch(
        _forward, _grid(n_rows, f), hidden, scale, out, n_rows,
        F=f, HAS_SCALE=scale is not None, ROWS=ROWS, FEATURES=FEATURES, TILES=TILES,
    )  # fmt: skip
    return out


@triton_op("ablate::swiglu_backward", mutates_args={})
def _swiglu_backward(g: Tensor, hidden: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    g, hidden = g.contiguous(), hidden.contiguous()
    f = hidden.shape[-1] // 2
    n_rows = hidden.numel() // (2 * f)
    grid = _grid(n_rows, f)
    by_hidden = torch.empty_like(hidden)
    n_partial = 0 if scale is None else grid[0]
    by_scale = torch.empty((n_partial, 2 * f), dtype=torch.float32, device=hidden.device)
    launch(
        _backward, grid, g, hidden, scale, by_hidden, by_scale, n_rows,
        F=f, HAS_SCALE=scale is not None, ROWS=ROWS, FEATURES=FEATURES, TILES=TILES,
    )  # fmt: skip
    return by_hidden, by_scale.sum(0)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None]:
    hidden, scale = ctx.saved_tensors
    by_hidden, by_scale = _swiglu_backward(g, hidden, scale)
    return by_hidden, None if scale is None else by_scale.to(scale.dtype)


_swiglu.register_autograd(_differentiate, setup_context=_keep)
