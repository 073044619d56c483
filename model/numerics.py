"""Normalisations computed in at least float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

UNIT_EPS = 1e-12  # only so that an exactly zero vector maps to zero instead of NaN; nGPT's Norm has no eps


def upcast(x: Tensor) -> Tensor:
    """x in float32, or in float64 when it already is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def split_last(x: Tensor, *sizes: int) -> Tensor:
    """The last dimension as several; one size may be -1."""
    return x.reshape(*x.shape[:-1], *sizes)


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Norm(x) = x / ||x||_2 along `dim`, in at least float32, without a gain (nGPT, arXiv 2410.01131)."""
    return F.normalize(upcast(x), dim=dim, eps=UNIT_EPS)


def rms(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, in at least float32, without a gain (RMSNorm, 1910.07467)."""
    x = upcast(x)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
