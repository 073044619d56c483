"""Normalisations computed in at least float32."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

# Sub-layers that subtract can leave rounding noise where the exact result is zero (exclusive attention at the first
# token). Real vectors are many orders larger; noise must not become a unit vector.
NOISE_NORM = 1e-6


# Triton is no dependency of torch's builds for the CPU.
HAS_TRITON = torch.version.cuda is not None and importlib.util.find_spec("triton") is not None


def upcast(x: Tensor) -> Tensor:
    """x in float32, or in float64 when it already is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def split_last(x: Tensor, *sizes: int) -> Tensor:
    """The last dimension as several; one size may be -1."""
    return torch.unflatten(x, -1, sizes)


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Norm(x) = x / ||x||_2 along `dim`, in at least float32, without gain and eps (nGPT, arXiv 2410.01131).

    A vector shorter than NOISE_NORM becomes 0, with gradient 0.
    """
    x = upcast(x)
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.masked_fill(norm < NOISE_NORM, torch.inf)


def project(x: Tensor, dim: int) -> None:
    """Make the vectors of x along `dim` unit in place; norms in at least float32.

    On a GPU with Triton by kernels of its own.
    """
    if x.is_cuda and HAS_TRITON:
        from .kernels.fused.projection import can_project, project_in_place

        if can_project(x, dim):
            project_in_place(x, dim, NOISE_NORM)
            return
    dtype = torch.promote_types(x.dtype, torch.float32)
    x.div_(torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=dtype).clamp_min_(NOISE_NORM))


def rms(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the last dimension, in at least float32, without a gain (RMSNorm, 1910.07467)."""
    x = upcast(x)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
