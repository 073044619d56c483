"""Clipping, AdamW (1711.05101) and nGPT's weight normalization (2410.01131, section 2.6) in one pass over a weight.

Normalized columns need a second pass.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..unit_vectors import NOISE_NORM
from .projection import locate_tile, project_columns, store_sums, vector_norm

ENTRIES = 256  # per warp, each with its gradient and moments
BLOCK = 1024  # entries of a program without normalization
MAX_ROW = 8192  # entries of a row that fits into one program


@triton.jit
def _read(rule):
    """Load this step's factors: of gradients, decay, update, the second moment's root and new moments; and eps."""
    step, rate, clip, log_beta1, log_beta2, gain1, gain2, eps, weight_decay = rule
    t = tl.load(step).to(tl.float64) + 1.0  # in float32, 1 - beta^t would lose half its digits
    lr = tl.load(rate)
    size = (lr / (1.0 - tl.exp(t * log_beta1))).to(tl.float32)
    correction = (1.0 / tl.sqrt(1.0 - tl.exp(t * log_beta2))).to(tl.float32)
    return tl.load(clip), lr * weight_decay, size, correction, gain1, gain2, eps


@triton.jit
def _advance(weight, moments, factors, place, is_there):
    """Return the weight's entries after AdamW's step, and store their moments.

    Data that is read once is evicted first, to keep the weight in the cache, whose columns are read twice.
    """
    gradient, exp_avg, exp_avg_sq = moments
    clip, decay, size, correction, gain1, gain2, eps = factors
    g = tl.load(gradient + place, is_there, 0.0, eviction_policy="evict_first") * clip
    m = tl.load(exp_avg + place, is_there, 0.0, eviction_policy="evict_first")
    v = tl.load(exp_avg_sq + place, is_there, 0.0, eviction_policy="evict_first")
    x = tl.load(weight + place, is_there, 0.0)
    m += (g - m) * gain1
    v += (g * g - v) * gain2
    tl.store(exp_avg + place, m, is_there)
    tl.store(exp_avg_sq + place, v, is_there)
    x -= x * decay
    return x - size * m / (tl.sqrt(v) * correction + eps)


@triton.jit
def _step_rows(
    weight, moments, rule, n_entries, width, floor: tl.constexpr, is_unit: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    lane = tl.arange(0, block)
    place = tl.program_id(0).to(tl.int64) * width + lane
    is_there = (lane < width) & (place < n_entries)
    x = _advance(weight, moments, _read(rule), place, is_there)
    if is_unit:
        x = x / vector_norm(x * x, floor)
    tl.store(weight + place, x, is_there)


@triton.jit
def _step_columns(
    weight, sums, n_rows, n_columns: tl.constexpr,
    row_block: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, moments, rule,
):  # fmt: skip
    factors = _read(rule)
    squares = tl.zeros((rows, columns), tl.float32)
    for first in range(0, row_block, rows):
        place, is_there = locate_tile(tl.program_id(1) * row_block + first, n_rows, n_columns, rows, columns)
        x = _advance(weight, moments, factors, place, is_there)
        tl.store(weight + place, x, is_there)
        squares += x * x
    store_sums(sums, squares, n_columns, columns)


def can_step(weight: Tensor, dim: int | None) -> bool:
    """Whether `step_in_place` takes the weight: a contiguous float32 matrix without rows too long to normalize."""
    is_matrix = weight.dim() == 2 and weight.is_contiguous() and weight.dtype == torch.float32
    return is_matrix and (dim != 1 or weight.shape[1] <= MAX_ROW)


def step_in_place(
    weight: Tensor,
    moments: tuple[Tensor, Tensor, Tensor],
    scalars: tuple[Tensor, Tensor, Tensor],
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    dim: int | None,
) -> None:
    """Do a step of torch.optim.AdamW, then divide the vectors along `dim` by their norms, at least NOISE_NORM.

    `moments`: the gradient, which stays unchanged, exp_avg and exp_avg_sq, each like the weight. `scalars`: the number
    of steps so far, the learning rate and the factor of gradients, as float32 tensors of one element on the weight's
    device. Without `dim` nothing is normalized.
    """
    logs = [math.log(beta) if beta else -math.inf for beta in betas]
    rule = (*scalars, *logs, *(1 - beta for beta in betas), eps, weight_decay)
    if dim == 0:
        project_columns(weight, NOISE_NORM, _step_columns, moments, rule)
        return
    width = BLOCK if dim is None else weight.shape[1]
    block = triton.next_power_of_2(width)
    grid = (triton.cdiv(weight.numel(), width),)
    n_warps = max(1, min(16, block // ENTRIES))
    _step_rows[grid](weight, moments, rule, weight.numel(), width, NOISE_NORM, dim == 1, block, num_warps=n_warps)
