"""Unit vectors: of activations, with gradients, and of weights, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics import HAS_TRITON, upcast

# Rounding can leave noise where the exact result is zero, as in exclusive attention at the first token. Such noise,
# many orders of magnitude shorter than real vectors, must not become a unit vector.
NOISE_NORM = 1e-6


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """Return x / ||x||_2 along `dim`, without gain and eps (Norm of nGPT, arXiv 2410.01131).

    A vector shorter than NOISE_NORM becomes 0, with gradient 0.
    """
    x = upcast(x)
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return x / norm.masked_fill(norm < NOISE_NORM, torch.inf)


def project(x: Tensor, dim: int) -> None:
    """Divide the vectors of x along `dim` by their norms, in place; norms are computed in at least float32."""
    if x.is_cuda and HAS_TRITON:
        from .fused.projection import can_project, project_in_place

        if can_project(x, dim):
            project_in_place(x, dim, NOISE_NORM)
            return
    dtype = torch.promote_types(x.dtype, torch.float32)
    x.div_(torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=dtype).clamp_min_(NOISE_NORM))
