"""Rotary positions, unit norm and scale of queries or keys in one pass (RoFormer, 2104.09864; nGPT, 2410.01131)."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from ..unit_vectors import NOISE_NORM
from .launch import launch

TOKENS, WARPS = 8, 1  # tokens of one head at once; more is slower on an H200
TILES = 8  # per program, which sums its part of the scale's gradient over them


def place_heads(x_bthk: Tensor, cos_t1k: Tensor, sin_t1k: Tensor, scale_hk: Tensor | None) -> Tensor:
    """Compute scale * rotate(x / ||x||) of heads (b, t, h, k) in float32, and return it in their type; k is even.

    The tables are those of rope, (t, 1, k); the scale is (h, k) or one number. A head shorter than NOISE_NORM becomes
    0, with gradient 0.
    """
    if scale_hk is not None:
        scale_hk = scale_hk.float().expand(x_bthk.shape[2:]).contiguous()
    placed: Tensor = _place(x_bthk, cos_t1k, sin_t1k, scale_hk)
    return placed


@triton.jit
def _load_placed(x, cos, sin, tokens, positions, head, is_row, x_stride, K: tl.constexpr, P: tl.constexpr, NOISE):
    """Load a tile of unit heads as pairs before and after the rotation, with its tables and 1 / norm."""
    j = tl.arange(0, P // 2)
    k = tl.arange(0, P)
    is_pair = is_row[:, None] & (j < K // 2)[None, :]
    tile = tl.load(x + tokens[:, None] * x_stride + head * K + k[None, :], is_row[:, None] & (k < K)[None, :], 0.0)
    tile = tile.to(tl.float32)
    norm = tl.sqrt(tl.sum(tile * tile, 1))
    inverse = (1.0 / tl.where(norm < NOISE, float("inf"), norm))[:, None]
    even, odd = tl.split(tl.reshape(tile * inverse, (tokens.shape[0], P // 2, 2)))
    c = tl.load(cos + positions[:, None] * K + 2 * j[None, :], is_pair, 0.0)
    s = tl.load(sin + positions[:, None] * K + 2 * j[None, :] + 1, is_pair, 0.0)
    return even, odd, even * c - odd * s, even * s + odd * c, c, s, inverse


@triton.jit
def _load_scale(scale, head, K: tl.constexpr, P: tl.constexpr):
    j = tl.arange(0, P // 2)
    even = tl.load(scale + head * K + 2 * j, j < K // 2, 0.0)
    return even[None, :], tl.load(scale + head * K + 2 * j + 1, j < K // 2, 0.0)[None, :]


@triton.jit
def _place_forward(
    x, cos, sin, scale, out, n_tokens, length, x_stride, n_heads,
    NOISE: tl.constexpr, HAS_SCALE: tl.constexpr, K: tl.constexpr, P: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    tokens = (tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    is_row = tokens < n_tokens
    _, _, even, odd, _, _, _ = _load_placed(x, cos, sin, tokens, tokens % length, head, is_row, x_stride, K, P, NOISE)
    if HAS_SCALE:
        scale_even, scale_odd = _load_scale(scale, head, K, P)
        even, odd = even * scale_even, odd * scale_odd
    k = tl.arange(0, P)
    tile = tl.reshape(tl.join(even, odd), (TOKENS, P))
    place = out + (tokens[:, None] * n_heads + head) * K + k[None, :]
    tl.store(place, tile.to(out.dtype.element_ty), is_row[:, None] & (k < K)[None, :])


@triton.jit
def _place_grad(
    g, x, cos, sin, scale, by_x, by_scale, n_tokens, length, x_stride, n_heads,
    NOISE: tl.constexpr, HAS_SCALE: tl.constexpr, K: tl.constexpr, P: tl.constexpr, TOKENS: tl.constexpr,
    TILES: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    k = tl.arange(0, P)
    sum_even = tl.zeros((P // 2,), tl.float32)
    sum_odd = tl.zeros((P // 2,), tl.float32)
    for tile in range(TILES):
        tokens = ((tl.program_id(0) * TILES + tile) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
        is_row = tokens < n_tokens
        before_even, before_odd, even, odd, c, s, inverse = _load_placed(
            x, cos, sin, tokens, tokens % length, head, is_row, x_stride, K, P, NOISE
        )
        is_entry = is_row[:, None] & (k < K)[None, :]
        place = (tokens[:, None] * n_heads + head) * K + k[None, :]
        g_tile = tl.load(g + place, is_entry, 0.0).to(tl.float32)
        g_even, g_odd = tl.split(tl.reshape(g_tile, (TOKENS, P // 2, 2)))
        if HAS_SCALE:
            sum_even += tl.sum(g_even * even, 0)
            sum_odd += tl.sum(g_odd * odd, 0)
            scale_even, scale_odd = _load_scale(scale, head, K, P)
            g_even, g_odd = g_even * scale_even, g_odd * scale_odd
        u_even, u_odd = g_even * c + g_odd * s, g_odd * c - g_even * s
        along = tl.sum(u_even * before_even + u_odd * before_odd, 1)[:, None]
        pairs = tl.join((u_even - before_even * along) * inverse, (u_odd - before_odd * along) * inverse)
        tl.store(by_x + place, tl.reshape(pairs, (TOKENS, P)).to(by_x.dtype.element_ty), is_entry)
    if HAS_SCALE:
        j = tl.arange(0, P // 2)
        partial = by_scale + (tl.program_id(0) * n_heads + head) * K + 2 * j
        tl.store(partial, sum_even, j < K // 2)
        tl.store(partial + 1, sum_odd, j < K // 2)


def _with_even_strides(x_bthk: Tensor) -> Tensor:
    """Copy x unless its tokens have equal distances in memory and its heads are contiguous."""
    _, t, _, k = x_bthk.shape
    is_even = x_bthk.stride()[2:] == (k, 1) and x_bthk.stride(0) == t * x_bthk.stride(1)
    return x_bthk if is_even else x_bthk.contiguous()


def _sizes(x_bthk: Tensor) -> dict[str, Any]:
    k = x_bthk.shape[-1]
    return {"NOISE": NOISE_NORM, "K": k, "P": triton.next_power_of_2(k), "TOKENS": TOKENS, "num_warps": WARPS}


@triton_op("ablate::place_heads", mutates_args={})
def _place(x_bthk: Tensor, cos_t1k: Tensor, sin_t1k: Tensor, scale_hk: Tensor | None) -> Tensor:
    x_bthk = _with_even_strides(x_bthk)
    b, t, h, k = x_bthk.shape
    out_bthk = torch.empty((b, t, h, k), dtype=x_bthk.dtype, device=x_bthk.device)
    launch(
        _place_forward, (triton.cdiv(b * t, TOKENS), h), x_bthk, cos_t1k, sin_t1k, scale_hk, out_bthk, b * t, t,
        x_bthk.stride(1), h, HAS_SCALE=scale_hk is not None, **_sizes(x_bthk),
    )  # fmt: skip
    return out_bthk


@triton_op("ablate::place_heads_backward", mutates_args={})
def _place_backward(
    g_bthk: Tensor, x_bthk: Tensor, cos_t1k: Tensor, sin_t1k: Tensor, scale_hk: Tensor | None
) -> tuple[Tensor, Tensor]:
    x_bthk, g_bthk = _with_even_strides(x_bthk), g_bthk.contiguous()
    b, t, h, k = x_bthk.shape
    n_programs = triton.cdiv(b * t, TOKENS * TILES)
    by_x_bthk = torch.empty((b, t, h, k), dtype=x_bthk.dtype, device=x_bthk.device)
    n_partial = 0 if scale_hk is None else n_programs
    by_scale_nhk = torch.empty((n_partial, h, k), dtype=torch.float32, device=x_bthk.device)
    launch(
        _place_grad, (n_programs, h), g_bthk, x_bthk, cos_t1k, sin_t1k, scale_hk, by_x_bthk, by_scale_nhk, b * t, t,
        x_bthk.stride(1), h, HAS_SCALE=scale_hk is not None, TILES=TILES, **_sizes(x_bthk),
    )  # fmt: skip
    return by_x_bthk, by_scale_nhk.sum(0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, g_bthk: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
    x_bthk, cos_t1k, sin_t1k, scale_hk = ctx.saved_tensors
    by_x_bthk, by_scale_hk = _place_backward(g_bthk, x_bthk, cos_t1k, sin_t1k, scale_hk)
    return by_x_bthk, None, None, None if scale_hk is None else by_scale_hk


_place.register_autograd(_differentiate, setup_context=_keep)
