"""The modules of nGPT: updates of the stream, queries and keys, hidden features, and the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..context import Tables
from ..contracts import Site
from ..kernels.unit_vectors import unit
from ..numerics import is_fusible
from ..parameters import SpecModule
from ..position.rotation import rotate_pairs
from ..residual import Final, HeadPlacement, Residual, Rotate
from .learned_scale import LearnedScale
from .spheres import Norm, Spheres

SLERP_MIN_SINE = 1e-3  # below this sine, a is more exact than the quotient sin(a x) / sin(x) in float32


class Restore(nn.Module):
    """Norm(x) as a module."""

    def __init__(self, spheres: Spheres) -> None:
        super().__init__()
        self.spheres = spheres

    def forward(self, x: Tensor) -> Tensor:
        return self.spheres.norm(x)


def lerp_norm(h: Tensor, target: Tensor, alpha: Tensor, norm: Norm = unit) -> Tensor:
    """Norm(h + alpha * (target - h)): the paper's equations 10 and 11."""
    return norm(h + alpha * (target - h))


def slerp(h: Tensor, target: Tensor, alpha: Tensor, norm: Norm = unit) -> Tensor:
    """Norm(sin((1 - alpha) w) / sin(w) * h + sin(alpha w) / sin(w) * target), w the angle between them."""
    cosine = (h * target).sum(-1, keepdim=True).clamp(-1 + 1e-7, 1 - 1e-7)
    angle = cosine.acos()
    sine = angle.sin()
    is_close = sine < SLERP_MIN_SINE
    safe = torch.where(is_close, torch.ones_like(sine), sine)
    toward_h = torch.where(is_close, 1 - alpha, ((1 - alpha) * angle).sin() / safe)
    toward_target = torch.where(is_close, alpha, (alpha * angle).sin() / safe)
    return norm(toward_h * h + toward_target * target)


def riemann(h: Tensor, target: Tensor, alpha: Tensor, norm: Norm = unit) -> Tensor:
    """Norm(h - alpha * (h (h . target) - target)): a step along the tangent, then the retraction."""
    return norm(h - alpha * (h * (h * target).sum(-1, keepdim=True) - target))


UPDATES = {"lerp_norm": lerp_norm, "slerp": slerp, "riemann": riemann}


class SphereResidual(Residual):
    """h <- update(h, Norm(y), alpha)."""

    def __init__(
        self,
        alpha: LearnedScale,
        update: str,
        is_positive: bool,
        site: Site,
        has_copy: bool,
        spheres: Spheres,
        orthogonality: float,
    ) -> None:
        super().__init__()
        self.spheres, self.orthogonality = spheres, orthogonality
        self.overlap: Tensor | None = None
        self.has_copy = has_copy
        self.alpha = alpha
        self.update = UPDATES[update]
        self.is_positive = is_positive
        self.label = "alpha_attn" if site == "attention" else "alpha_mlp"

    def read(self, h_btd: Tensor) -> Tensor:
        return h_btd

    def write(self, h_btd: Tensor, y_btd: Tensor) -> tuple[Tensor, Tensor]:
        if self.orthogonality and self.training:
            self.overlap = (h_btd * self.spheres.norm(y_btd)).sum(-1).square().mean()
        if not self.spheres.is_plain:
            h_btd = self.spheres.move(self.update, h_btd, y_btd, self.step_sizes())
        elif self.update is lerp_norm and is_fusible(h_btd) and is_fusible(y_btd):
            from ..kernels.fused import sphere

            if self.has_copy:
                return sphere.lerp_norm_twice(h_btd, y_btd, self.step_sizes())
            h_btd = sphere.lerp_norm(h_btd, y_btd, self.step_sizes())
        else:
            h_btd = self.update(h_btd, unit(y_btd), self.step_sizes())
        return h_btd, h_btd

    def take_penalty(self) -> Tensor | None:
        overlap, self.overlap = self.overlap, None
        return None if overlap is None else self.orthogonality * overlap

    def step_sizes(self) -> Tensor:
        alpha_d: Tensor = self.alpha()
        return alpha_d.abs() if self.is_positive else alpha_d

    def diagnostics(self) -> dict[str, Tensor]:
        alpha_d: Tensor = self.alpha()
        return {self.label: alpha_d.mean()}


class SphereQueryKey(HeadPlacement):
    """q, k <- s_qk Norm(.) and logit scale sqrt(k). Both factors multiply q, as key heads may be fewer."""

    def __init__(self, s_qk: LearnedScale, n_heads: int, width: int, has_norm: bool, norm_eps: float) -> None:
        super().__init__()
        self.sphere = Spheres(1, norm_eps)
        self.scale = width**0.5
        self.s_qk = s_qk
        self.shape = (n_heads, width)
        self.has_norm = has_norm

    def query_scale(self) -> Tensor:
        """Return s_qk^2, (n_heads, k) or one number."""
        s: Tensor = self.s_qk()
        return s.square().view(self.shape) if s.numel() > 1 else s.square()

    def forward(self, q_bthk: Tensor, k_bshk: Tensor, rotate: Rotate, tables: Tables) -> tuple[Tensor, Tensor]:
        if rotate is rotate_pairs and self.has_norm and self.sphere.is_plain and is_fusible(q_bthk):
            from ..kernels.fused.placed_heads import place_heads

            cos_t1k, sin_t1k = tables
            placed_bthk = place_heads(q_bthk, cos_t1k, sin_t1k, self.query_scale())
            return placed_bthk, place_heads(k_bshk, cos_t1k, sin_t1k, None)
        q_bthk, k_bshk = rotate(q_bthk, tables), rotate(k_bshk, tables)
        if self.has_norm:
            q_bthk, k_bshk = self.sphere.norm(q_bthk), self.sphere.norm(k_bshk)
        return q_bthk * self.query_scale(), k_bshk

    def diagnostics(self) -> dict[str, Tensor]:
        return {"s_qk": self.s_qk().mean()}


class SphereHiddenScale(SpecModule):
    """s_uv sqrt(d_model), because unit weights read features of size 1 / sqrt(d_model) from a unit stream.

    With `s_gate`, that scale takes the place of s_uv for the last features, which are gates.
    """

    def __init__(
        self, s_uv: LearnedScale, factor: float, s_gate: LearnedScale | None, n_features: tuple[int, int]
    ) -> None:
        super().__init__()
        self.s_uv, self.s_gate = s_uv, s_gate
        self.factor, self.n_features = factor, n_features

    def forward(self) -> Tensor:
        s: Tensor = self.s_uv()
        if self.s_gate is not None:
            s = torch.cat([x().expand(n) for x, n in zip((self.s_uv, self.s_gate), self.n_features, strict=True)])
        return s * self.factor

    def diagnostics(self) -> dict[str, Tensor]:
        own = {} if self.s_gate is None else {"s_gate": self.s_gate().mean()}
        return {"s_uv": self.s_uv().mean(), **own}


class SphereFinal(Final):
    """No norm before the head; logits <- s_z * logits, divided by the number of spheres."""

    def __init__(self, s_z: LearnedScale, n_spheres: int) -> None:
        super().__init__()
        self.s_z, self.n_spheres = s_z, n_spheres

    def read(self, h_btd: Tensor) -> Tensor:
        return h_btd

    def logit_scale(self) -> Tensor:
        s_v: Tensor = self.s_z()
        return s_v if self.n_spheres == 1 else s_v / self.n_spheres

    def diagnostics(self) -> dict[str, Tensor]:
        return {"s_z": self.s_z().mean()}
