"""The maps of each head weighted, summed and normalized in one pass (Differential Transformer, 2410.05258)."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from ..unit_vectors import NOISE_NORM
from .launch import launch

ENTRIES = 2048  # in a program's tile of heads and features


def sum_maps(maps_bthmv: Tensor, weights: Tensor, gain: Tensor | None, has_norm: bool) -> Tensor:
    """Compute gain * sqrt(v) Norm(s), or gain * s, of s = sum_m w_m maps_m: (b, t, h, v) in the maps' type.

    Weights broadcast to (b, t, h, m); the gain is one number without a gradient, by default 1. The sum is float32; an s
    shorter than NOISE_NORM becomes 0, with gradient 0.
    """
    weights_bthm = weights.float().expand(maps_bthmv.shape[:-1]).contiguous()
    summed: Tensor = _sum_maps(maps_bthmv, weights_bthm, None if gain is None else gain.detach().float(), has_norm)
    return summed


@triton.jit
def _load_sum(maps, weights, heads, v, is_head, is_entry, M: tl.constexpr, V: tl.constexpr):
    total = tl.zeros((heads.shape[0], v.shape[0]), tl.float32)
    for m in tl.static_range(M):
        w = tl.load(weights + heads * M + m, is_head, 0.0)[:, None]
        total += w * tl.load(maps + (heads * M + m)[:, None] * V + v[None, :], is_entry, 0.0).to(tl.float32)
    return total


@triton.jit
def _invert_norm(x, HAS_NORM: tl.constexpr, NOISE: tl.constexpr):
    """Return 1 / norm of each row, 0 for noise, or 1 without normalization."""
    inverse = tl.full((x.shape[0],), 1.0, tl.float32)
    if HAS_NORM:
        norm = tl.sqrt(tl.sum(x * x, 1))
        inverse = 1.0 / tl.where(norm < NOISE, float("inf"), norm)
    return inverse[:, None]


@triton.jit
def _place(n_heads, HEADS: tl.constexpr, V: tl.constexpr, P: tl.constexpr):
    heads = (tl.program_id(0) * HEADS + tl.arange(0, HEADS)).to(tl.int64)
    v = tl.arange(0, P)
    is_head = heads < n_heads
    return heads, v, is_head, is_head[:, None] & (v < V)[None, :]


@triton.jit
def _sum_forward(
    maps, weights, gain, out, n_heads,
    FACTOR: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_NORM: tl.constexpr, NOISE: tl.constexpr,
    M: tl.constexpr, V: tl.constexpr, P: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    heads, v, is_head, is_entry = _place(n_heads, HEADS, V, P)
    total = _load_sum(maps, weights, heads, v, is_head, is_entry, M, V)
    total *= _invert_norm(total, HAS_NORM, NOISE) * FACTOR
    if HAS_GAIN:
        total *= tl.load(gain)
    tl.store(out + heads[:, None] * V + v[None, :], total.to(out.dtype.element_ty), is_entry)


@triton.jit
def _sum_grad(
    g, maps, weights, gain, by_maps, by_weights, n_heads,
    FACTOR: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_NORM: tl.constexpr, NOISE: tl.constexpr,
    M: tl.constexpr, V: tl.constexpr, P: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    heads, v, is_head, is_entry = _place(n_heads, HEADS, V, P)
    by_sum = tl.load(g + heads[:, None] * V + v[None, :], is_entry, 0.0).to(tl.float32) * FACTOR
    if HAS_GAIN:
        by_sum *= tl.load(gain)
    if HAS_NORM:
        total = _load_sum(maps, weights, heads, v, is_head, is_entry, M, V)
        inverse = _invert_norm(total, HAS_NORM, NOISE)
        unit = total * inverse
        by_sum = (by_sum - unit * tl.sum(by_sum * unit, 1)[:, None]) * inverse
    for m in tl.static_range(M):
        place = (heads * M + m)[:, None] * V + v[None, :]
        x = tl.load(maps + place, is_entry, 0.0).to(tl.float32)
        w = tl.load(weights + heads * M + m, is_head, 0.0)[:, None]
        tl.store(by_maps + place, (w * by_sum).to(by_maps.dtype.element_ty), is_entry)
        tl.store(by_weights + heads * M + m, tl.sum(x * by_sum, 1), is_head)


def _start(kernel: Any, maps_bthmv: Tensor, gain: Tensor | None, has_norm: bool, *tensors: Tensor | None) -> None:
    *_, m, v = maps_bthmv.shape
    n_heads = maps_bthmv.numel() // (m * v)
    p = triton.next_power_of_2(v)
    heads = max(1, ENTRIES // p)
    launch(
        kernel, (triton.cdiv(n_heads, heads),), *tensors, n_heads, FACTOR=math.sqrt(v) if has_norm else 1.0,
        HAS_GAIN=gain is not None, HAS_NORM=has_norm, NOISE=NOISE_NORM, M=m, V=v, P=p, HEADS=heads,
    )  # fmt: skip


@triton_op("ablate::sum_maps", mutates_args={})
def _sum_maps(maps_bthmv: Tensor, weights_bthm: Tensor, gain: Tensor | None, has_norm: bool) -> Tensor:
    maps_bthmv = maps_bthmv.contiguous()
    b, t, h, _, v = maps_bthmv.shape
    out_bthv = torch.empty((b, t, h, v), dtype=maps_bthmv.dtype, device=maps_bthmv.device)
    _start(_sum_forward, maps_bthmv, gain, has_norm, maps_bthmv, weights_bthm, gain, out_bthv)
    return out_bthv


@triton_op("ablate::sum_maps_backward", mutates_args={})
def _sum_maps_backward(
    g_bthv: Tensor, maps_bthmv: Tensor, weights_bthm: Tensor, gain: Tensor | None, has_norm: bool
) -> tuple[Tensor, Tensor]:
    maps_bthmv, g_bthv = maps_bthmv.contiguous(), g_bthv.contiguous()
    by_maps_bthmv, by_weights_bthm = torch.empty_like(maps_bthmv), torch.empty_like(weights_bthm)
    tensors = g_bthv, maps_bthmv, weights_bthm, gain, by_maps_bthmv, by_weights_bthm
    _start(_sum_grad, maps_bthmv, gain, has_norm, *tensors)
    return by_maps_bthmv, by_weights_bthm


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.has_norm = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, g_bthv: Tensor) -> tuple[Tensor, Tensor, None, None]:
    by_maps_bthmv, by_weights_bthm = _sum_maps_backward(g_bthv, *ctx.saved_tensors, ctx.has_norm)
    return by_maps_bthmv, by_weights_bthm, None, None


_sum_maps.register_autograd(_differentiate, setup_context=_keep)
