"""nGPT: stream, weights, queries and keys are unit vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ..context import Tables
from ..contracts import NO_ATTENTION, NO_MLP, Architecture, Final, HeadPlacement, Normalization, Residual, Rotate, Site
from ..errors import ConfigError
from ..numerics import is_fusible, unit
from ..parameters import SpecModule
from ..position.rope import rotate_pairs
from .learned_scale import LearnedScale, Scale

SCALES = ("alpha_attn", "alpha_mlp", "s_qk", "s_uv", "s_z")
MIN_SCALE = 1e-9
SLERP_MIN_SINE = 1e-3  # below this sine, a is more exact than the quotient sin(a x) / sin(x) in float32


class Unit(nn.Module):
    """Norm(x) as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return unit(x)


def lerp_norm(h: Tensor, target: Tensor, alpha: Tensor) -> Tensor:
    """Norm(h + alpha * (target - h)): the paper's equations 10 and 11."""
    return unit(h + alpha * (target - h))


def slerp(h: Tensor, target: Tensor, alpha: Tensor) -> Tensor:
    """Norm(sin((1 - alpha) w) / sin(w) * h + sin(alpha w) / sin(w) * target), w the angle between them."""
    cosine = (h * target).sum(-1, keepdim=True).clamp(-1 + 1e-7, 1 - 1e-7)
    angle = cosine.acos()
    sine = angle.sin()
    is_close = sine < SLERP_MIN_SINE
    safe = torch.where(is_close, torch.ones_like(sine), sine)
    toward_h = torch.where(is_close, 1 - alpha, ((1 - alpha) * angle).sin() / safe)
    toward_target = torch.where(is_close, alpha, (alpha * angle).sin() / safe)
    return unit(toward_h * h + toward_target * target)


def riemann(h: Tensor, target: Tensor, alpha: Tensor) -> Tensor:
    """Norm(h - alpha * (h (h . target) - target)): a step along the tangent, then the retraction."""
    return unit(h - alpha * (h * (h * target).sum(-1, keepdim=True) - target))


UPDATES = {"lerp_norm": lerp_norm, "slerp": slerp, "riemann": riemann}


class SphereResidual(Residual):
    """h <- update(h, Norm(y), alpha)."""

    def __init__(self, alpha: LearnedScale, update: str, is_positive: bool, site: Site, has_copy: bool) -> None:
        super().__init__()
        self.has_copy = has_copy
        self.alpha = alpha
        self.update = UPDATES[update]
        self.is_positive = is_positive
        self.label = "alpha_attn" if site == "attention" else "alpha_mlp"

    def read(self, h_btd: Tensor) -> Tensor:
        return h_btd

    def write(self, h_btd: Tensor, y_btd: Tensor) -> tuple[Tensor, Tensor]:
        if self.update is lerp_norm and is_fusible(h_btd) and is_fusible(y_btd):
            from ..kernels.fused import sphere

            if self.has_copy:
                return sphere.lerp_norm_twice(h_btd, y_btd, self.step_sizes())
            h_btd = sphere.lerp_norm(h_btd, y_btd, self.step_sizes())
        else:
            h_btd = self.update(h_btd, unit(y_btd), self.step_sizes())
        return h_btd, h_btd

    def step_sizes(self) -> Tensor:
        alpha_d: Tensor = self.alpha()
        return alpha_d.abs() if self.is_positive else alpha_d

    def diagnostics(self) -> dict[str, Tensor]:
        alpha_d: Tensor = self.alpha()
        return {self.label: alpha_d.mean()}


class SphereQueryKey(HeadPlacement):
    """q, k <- s_qk Norm(.) and logit scale sqrt(k). Both factors multiply q, as key heads may be fewer."""

    def __init__(self, s_qk: LearnedScale, n_heads: int, width: int, has_norm: bool) -> None:
        super().__init__()
        self.scale = width**0.5
        self.s_qk = s_qk
        self.shape = (n_heads, width)
        self.has_norm = has_norm

    def query_scale(self) -> Tensor:
        """Return s_qk^2, (n_heads, k) or one number."""
        s: Tensor = self.s_qk()
        return s.square().view(self.shape) if s.numel() > 1 else s.square()

    def forward(self, q_bthk: Tensor, k_bshk: Tensor, rotate: Rotate, tables: Tables) -> tuple[Tensor, Tensor]:
        if rotate is rotate_pairs and self.has_norm and is_fusible(q_bthk):
            from ..kernels.fused.placed_heads import place_heads

            cos_t1k, sin_t1k = tables
            placed_bthk = place_heads(q_bthk, cos_t1k, sin_t1k, self.query_scale())
            return placed_bthk, place_heads(k_bshk, cos_t1k, sin_t1k, None)
        q_bthk, k_bshk = rotate(q_bthk, tables), rotate(k_bshk, tables)
        if self.has_norm:
            q_bthk, k_bshk = unit(q_bthk), unit(k_bshk)
        return q_bthk * self.query_scale(), k_bshk

    def diagnostics(self) -> dict[str, Tensor]:
        return {"s_qk": self.s_qk().mean()}


class SphereHiddenScale(SpecModule):
    """s_uv sqrt(d_model), because unit weights read features of size 1 / sqrt(d_model) from a unit stream."""

    def __init__(self, s_uv: LearnedScale, d_model: int) -> None:
        super().__init__()
        self.s_uv = s_uv
        self.factor = math.sqrt(d_model)

    def forward(self) -> Tensor:
        s: Tensor = self.s_uv()
        return s * self.factor

    def diagnostics(self) -> dict[str, Tensor]:
        return {"s_uv": self.s_uv().mean()}


class SphereFinal(Final):
    """No norm before the head; logits <- s_z * logits."""

    def __init__(self, s_z: LearnedScale) -> None:
        super().__init__()
        self.s_z = s_z

    def read(self, h_btd: Tensor) -> Tensor:
        return h_btd

    def logit_scale(self) -> Tensor:
        s_v: Tensor = self.s_z()
        return s_v

    def diagnostics(self) -> dict[str, Tensor]:
        return {"s_z": self.s_z().mean()}


class NGPT(Normalization):
    """The normalized Transformer."""

    name: ClassVar[str] = "ngpt"
    summary: ClassVar[str] = "unit-norm stream, weights, queries and keys; learned step sizes in place of norms"
    paper: ClassVar[str] = "nGPT, arXiv 2410.01131"
    equations: ClassVar[str] = (
        "h <- Norm(h + a_A (Norm(ATTN(h)) - h)), the same for MLP with a_M (10, 11); q, k <- s_qk Norm(.), logits "
        "times sqrt(k) (15, 16); u, v <- s_uv sqrt(d) (.) (20, 21); z <- s_z z (3); weights unit along d_model"
    )
    deviations: ClassVar[str] = (
        "u and v are both scaled by sqrt(d), as in the authors' code and not in equation 20 (the same function for "
        "swiglu, whose output is normalized); true RoPE, which the authors' code lacks; s_qk^2 is applied to q alone "
        "(the same function); the authors' code normalizes h again inside each update, which this code omits: h is a "
        "unit vector already, so the function is the same, but the radial part of the embedding's gradient differs (no "
        "effect on training was found: -0.001 +- 0.003 nats over nine pairs of runs); with weight normalization off "
        "the embedding is normalized once instead; without qk_norm, s_qk and the logit scale sqrt(k) stay; "
        "slerp's result is normalized again, because a vector alpha leaves the sphere"
    )
    neutral: ClassVar[str] = "None: every update ends on the unit sphere, which no pre-norm stream does."

    alpha_attn: Scale = Field(default=Scale(init=0.05), description="step size after attention")
    alpha_mlp: Scale = Field(default=Scale(init=0.05), description="step size after the MLP")
    s_qk: Scale = Field(default=Scale(), description="scale of queries and keys")
    s_uv: Scale = Field(default=Scale(scale=1.0), description="scale of the MLP's hidden features")
    s_z: Scale = Field(default=Scale(), description="scale of the logits")
    alpha_sign: Literal["abs", "free"] = Field(default="abs", description="abs keeps step sizes positive")
    update: Literal["lerp_norm", "slerp", "riemann"] = Field(
        default="lerp_norm", description="how h moves toward the target"
    )
    qk_norm: bool = Field(default=True, description="normalize queries and keys")
    normalize_weights: Literal["post_step", "parametrize", "both", "off"] = Field(
        default="post_step",
        description="normalize weights after each step, inside the forward pass, in both places, or never",
    )

    @field_validator("normalize_weights", mode="before")
    @classmethod
    def _read_off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads an unquoted off as false

    @property
    def has_unit_stream(self) -> bool:
        return True

    @property
    def has_unit_weights(self) -> bool:
        return self.normalize_weights != "off"

    @property
    def has_unit_weights_in_forward(self) -> bool:
        return self.normalize_weights in ("parametrize", "both")

    @property
    def has_unit_weights_after_step(self) -> bool:
        return self.normalize_weights in ("post_step", "both")

    @property
    def has_scale_free_writes(self) -> bool:
        return True

    def base_std(self, d_model: int) -> float:
        return float(d_model**-0.5)

    def recipe(self) -> dict[str, float]:
        return {"weight_decay": 0.0, "warmup_fraction": 0.0}

    def resolve(self, config: Architecture) -> Self:
        return self.model_copy(update={name: getattr(self, name).resolve(config) for name in SCALES})

    def check(self, config: Architecture) -> None:
        for name in SCALES:
            knobs = getattr(self, name)
            if abs(knobs.scale) < MIN_SCALE:
                raise ConfigError(
                    f"normalization.{name}.scale",
                    "must not be 0, because the value is raw * init / scale",
                    [f"at least {MIN_SCALE:g} in magnitude"],
                )
            if knobs.init == 0 and knobs.mode != "fixed":
                raise ConfigError(
                    f"normalization.{name}.init",
                    "must not be 0 for a learned scale, because raw * init / scale would stay 0",
                )
        if config.attention.query_features(config) and getattr(config.attention, "qk_norm", "none") != "none":
            own = f"{self.name} normalizes queries and keys itself and has its own knob for it"
            raise ConfigError("attention.qk_norm", own, ["none"])

    def idle(self, config: Architecture) -> dict[str, str]:
        fixed = [name for name in SCALES if getattr(self, name).mode == "fixed"]
        found = {f"{name}.scale": "a fixed scale has no raw value" for name in fixed}
        steps = [self.alpha_attn] * (config.count_kept("attention") > 0) + [self.alpha_mlp] * (
            config.count_kept("mlp") > 0
        )
        if all(alpha.mode == "fixed" and (isinstance(alpha.init, str) or alpha.init >= 0) for alpha in steps):
            found["alpha_sign"] = "all step sizes are fixed and positive"
        if not config.count_kept("attention"):
            found |= dict.fromkeys(("alpha_attn", "s_qk", "qk_norm"), NO_ATTENTION)
        elif not config.attention.query_features(config):
            found |= dict.fromkeys(("s_qk", "qk_norm"), f"{config.attention.name} has its own queries and keys")
        if not config.count_kept("mlp"):
            found |= dict.fromkeys(("alpha_mlp", "s_uv"), NO_MLP)
        elif not config.mlp.hidden_features(config):
            found["s_uv"] = f"{config.mlp.name} has no hidden features to scale"
        return found

    def notices(self, config: Architecture) -> tuple[str, ...]:
        own = (f"the common factor of s_uv cancels: {config.mlp.name} passes it on to an output that is normalized",)
        return own if config.mlp.is_homogeneous and not config.bias else ()

    @property
    def constrain(self) -> Callable[[Tensor], Tensor]:
        return unit

    @property
    def normalize_source(self) -> Callable[[Tensor], Tensor]:
        return unit

    def build_input(self, config: Architecture) -> nn.Module | None:
        return None if self.has_unit_weights else Unit()

    def build_residual(self, config: Architecture, site: Site) -> Residual:
        knobs = self.alpha_attn if site == "attention" else self.alpha_mlp
        alpha = LearnedScale(knobs, config.d_model, config)
        has_copy = site == "attention" and not config.linear.has_input_norm  # for the matrix product of the MLP
        return SphereResidual(alpha, self.update, self.alpha_sign == "abs", site, has_copy)

    def build_query_key(self, config: Architecture, n_heads: int, width: int) -> HeadPlacement:
        return SphereQueryKey(LearnedScale(self.s_qk, n_heads * width, config), n_heads, width, self.qk_norm)

    def build_hidden_scale(self, config: Architecture, n_features: int) -> nn.Module:
        return SphereHiddenScale(LearnedScale(self.s_uv, n_features, config), config.d_model)

    def build_final(self, config: Architecture) -> Final:
        return SphereFinal(LearnedScale(self.s_z, config.vocab_size, config))

    def build_end(self, config: Architecture) -> nn.Module:
        return nn.Identity()  # the stream consists of unit vectors already

    def num_encoder_params(self, config: Architecture) -> int:
        return 0

    def num_residual_params(self, config: Architecture, site: Site) -> int:
        alpha, scale, n_scaled = self.alpha_mlp, self.s_uv, config.mlp.hidden_features(config)
        if site == "attention":
            alpha, scale, n_scaled = self.alpha_attn, self.s_qk, config.attention.query_features(config)
        return alpha.num_params(config.d_model) + (scale.num_params(n_scaled) if n_scaled else 0)

    def num_model_params(self, config: Architecture) -> int:
        return self.s_z.num_params(config.vocab_size)
