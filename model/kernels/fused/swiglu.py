"""SwiGLU (GLU Variants, 2002.05202) in one pass, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op

from .launch import launch

ROWS, FEATURES = 32, 128  # the tile of a program


def swiglu(hidden: Tensor) -> Tensor:
    """Compute u * SiLU(v) in float32, u and v the halves of hidden (..., 2 f): (..., f) in its type."""
    activated: Tensor = _swiglu(hidden)
    return activated


@triton.jit
def _place(n_rows, F: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr):
    """Return the program's rows and features, and which of them exist."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    features = (tl.program_id(1) * FEATURES + tl.arange(0, FEATURES))[None, :]
    return rows, features, (rows < n_rows) & (features < F)


@triton.jit
def _swiglu_forward(hidden, out, n_rows, F: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr):
    rows, features, is_entry = _place(n_rows, F, ROWS, FEATURES)
    place = hidden + rows * (2 * F) + features
    u, v = tl.load(place, is_entry, 0.0).to(tl.float32), tl.load(place + F, is_entry, 0.0).to(tl.float32)
    tl.store(out + rows * F + features, (u * v * tl.sigmoid(v)).to(out.dtype.element_ty), is_entry)


@triton.jit
def _swiglu_grad(g, hidden, by_hidden, n_rows, F: tl.constexpr, ROWS: tl.constexpr, FEATURES: tl.constexpr):
    rows, features, is_entry = _place(n_rows, F, ROWS, FEATURES)
    place = rows * (2 * F) + features
    u = tl.load(hidden + place, is_entry, 0.0).to(tl.float32)
    v = tl.load(hidden + place + F, is_entry, 0.0).to(tl.float32)
    g_tile = tl.load(g + rows * F + features, is_entry, 0.0).to(tl.float32)
    gate = tl.sigmoid(v)
    by_v = g_tile * u * gate * (1 + v * (1 - gate))
    tl.store(by_hidden + place, (g_tile * v * gate).to(by_hidden.dtype.element_ty), is_entry)
    tl.store(by_hidden + place + F, by_v.to(by_hidden.dtype.element_ty), is_entry)


def _start(kernel: Any, hidden: Tensor, *tensors: Tensor) -> None:
    f = hidden.shape[-1] // 2
    n_rows = hidden.numel() // (2 * f)
    grid = triton.cdiv(n_rows, ROWS), triton.cdiv(f, FEATURES)
    launch(kernel, grid, *tensors, n_rows, F=f, ROWS=ROWS, FEATURES=FEATURES)


@triton_op("ablate::swiglu", mutates_args={})
def _swiglu(hidden: Tensor) -> Tensor:
    hidden = hidden.contiguous()
    out = torch.empty((*hidden.shape[:-1], hidden.shape[-1] // 2), dtype=hidden.dtype, device=hidden.device)
    _start(_swiglu_forward, hidden, hidden, out)
    return out


@triton_op("ablate::swiglu_backward", mutates_args={})
def _swiglu_backward(g: Tensor, hidden: Tensor) -> Tensor:
    hidden = hidden.contiguous()
    by_hidden = torch.empty_like(hidden)
    _start(_swiglu_grad, hidden, g.contiguous(), hidden, by_hidden)
    return by_hidden


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, g: Tensor) -> Tensor:
    by_hidden: Tensor = _swiglu_backward(g, *ctx.saved_tensors)
    return by_hidden


_swiglu.register_autograd(_differentiate, setup_context=_keep)
