"""Elementary operations in at least float32, and whether Triton kernels can replace them."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor

HAS_TRITON = torch.version.cuda is not None and importlib.util.find_spec("triton") is not None  # CPU builds lack it


def is_fusible(x: Tensor) -> bool:
    """Whether the kernels in kernels/fused take x: a float32 or bfloat16 tensor on a CUDA device."""
    return HAS_TRITON and x.is_cuda and x.dtype in (torch.float32, torch.bfloat16) and not is_stacked(x)


def is_stacked(x: Tensor) -> bool:
    """Whether x stands for one tensor per model, within `torch.func.vmap` over stacked models."""
    return is_batchedtensor(x)


def upcast(x: Tensor) -> Tensor:
    """Return x in float32, or in float64 when it already is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def rms(x: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) over the last dimension, without a gain (RMSNorm, arXiv 1910.07467)."""
    x = upcast(x)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
