"""Projection of weights to the unit sphere, in place."""

from __future__ import annotations

import torch
from torch import Tensor

from ..numerics import HAS_TRITON, NOISE_NORM


def project(x: Tensor, dim: int) -> None:
    """Divide the vectors of x along `dim` by their norms, in place; norms are computed in at least float32."""
    if x.is_cuda and HAS_TRITON:
        from .fused.projection import can_project, project_in_place

        if can_project(x, dim):
            project_in_place(x, dim, NOISE_NORM)
            return
    dtype = torch.promote_types(x.dtype, torch.float32)
    x.div_(torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=dtype).clamp_min_(NOISE_NORM))
