"""nGPT: stream, weights, queries and keys are unit vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator
from torch import Tensor, nn

from ..contracts import NO_ATTENTION, NO_MLP, Architecture, Normalization, Site
from ..errors import ConfigError
from ..kernels.unit_vectors import unit
from ..numerics import upcast
from ..residual import Final, HeadPlacement, Residual
from .learned_scale import HiddenScale, LearnedScale, Scale
from .sphere_modules import Restore, SphereFinal, SphereHiddenScale, SphereQueryKey, SphereResidual
from .spheres import Norm, Spheres

SCALES = ("alpha_attn", "alpha_mlp", "s_qk", "s_uv", "s_z")
MIN_SCALE = 1e-9


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

    later: ClassVar[frozenset[str]] = frozenset(
        {"s_gate", "num_hyperspheres", "norm_eps", "branch_orthogonality", "embedding_orthogonality"}
    )

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

    s_gate: HiddenScale | None = Field(
        default=None, description="scale of an MLP's gates, the second half of its hidden features; null is s_uv"
    )
    num_hyperspheres: int = Field(
        default=1,
        ge=1,
        le=1_000_000,
        description="split the stream and the vectors of weights into this many parts of norm 1 each",
    )
    norm_eps: float = Field(default=0.0, ge=0.0, lt=1.0, description="let norms lie within 1 +- norm_eps")
    branch_orthogonality: float = Field(
        default=0.0, ge=0.0, le=1e6, description="weight in the loss of (Norm(y) . h)^2, summed over sub-layers"
    )
    embedding_orthogonality: float = Field(
        default=0.0, ge=0.0, le=1e6, description="weight in the loss of the mean (e_i . e_j)^2 of different tokens"
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
        return self.model_copy(update={name: knobs.resolve(config) for name, knobs in self.scales()})

    def scales(self) -> Iterator[tuple[str, Scale]]:
        """Yield every scale by name."""
        for name in SCALES:
            yield name, getattr(self, name)
        if self.s_gate is not None:
            yield "s_gate", self.s_gate

    @property
    def spheres(self) -> Spheres:
        return Spheres(self.num_hyperspheres, self.norm_eps)

    @property
    def projection(self) -> Norm | None:
        return None if self.spheres.is_plain else self.spheres.norm

    @property
    def has_penalty(self) -> bool:
        return self.branch_orthogonality > 0 or self.embedding_orthogonality > 0

    def at(self, depth: int) -> Self:
        listed = {name: knobs.at(depth) for name, knobs in self.scales() if knobs.differs_by_layer}
        return self.model_copy(update=listed) if listed else self

    def check(self, config: Architecture) -> None:
        n_layers = max(map(len, config.topology.paths(config.n_layers)))
        for name, knobs in self.scales():
            for knob in ("init", "scale"):
                if isinstance(getattr(knobs, knob), tuple) and name == "s_z":
                    raise ConfigError(f"normalization.{name}.{knob}", "the logits have one scale, so give one number")
                if isinstance(getattr(knobs, knob), tuple) and len(knobs.values(knob)) != n_layers:
                    message = f"needs one value per layer, got {len(knobs.values(knob))}"
                    raise ConfigError(f"normalization.{name}.{knob}", message, [f"{n_layers} values"])
            if any(abs(float(scale)) < MIN_SCALE for scale in knobs.values("scale")):
                raise ConfigError(
                    f"normalization.{name}.scale",
                    "must not be 0, because the value is raw * init / scale",
                    [f"at least {MIN_SCALE:g} in magnitude"],
                )
            if 0 in knobs.values("init") and knobs.mode != "fixed":
                raise ConfigError(
                    f"normalization.{name}.init",
                    "must not be 0 for a learned scale, because raw * init / scale would stay 0",
                )
        if self.s_gate is not None and not config.mlp.gate_features(config):
            raise ConfigError("normalization.s_gate", f"{config.mlp.name} has no gates", ["null"])
        if config.d_model % self.num_hyperspheres:
            divisors = [n for n in range(1, config.d_model + 1) if config.d_model % n == 0]
            raise ConfigError("normalization.num_hyperspheres", f"must divide d_model = {config.d_model}", divisors)
        if self.num_hyperspheres > 1 and not config.mlp.hidden_features(config):
            why = f"{config.mlp.name} has weights whose vectors do not run along d_model, so they cannot be split"
            raise ConfigError("normalization.num_hyperspheres", why, [1])
        if config.attention.query_features(config) and getattr(config.attention, "qk_norm", "none") != "none":
            own = f"{self.name} normalizes queries and keys itself and has its own knob for it"
            raise ConfigError("attention.qk_norm", own, ["none"])

    def idle(self, config: Architecture) -> dict[str, str]:
        fixed = [name for name, knobs in self.scales() if knobs.mode == "fixed"]
        found = {f"{name}.scale": "a fixed scale has no raw value" for name in fixed}
        steps = [self.alpha_attn] * (config.count_kept("attention") > 0) + [self.alpha_mlp] * (
            config.count_kept("mlp") > 0
        )
        if all(alpha.mode == "fixed" and _is_positive(alpha) for alpha in steps):
            found["alpha_sign"] = "all step sizes are fixed and positive"
        if not config.count_kept("attention"):
            found |= dict.fromkeys(("alpha_attn", "s_qk", "qk_norm"), NO_ATTENTION)
        elif not config.attention.query_features(config):
            found |= dict.fromkeys(("s_qk", "qk_norm"), f"{config.attention.name} has its own queries and keys")
        if not config.count_kept("mlp"):
            found |= dict.fromkeys(("alpha_mlp", "s_uv", "s_gate"), NO_MLP)
        elif not config.mlp.hidden_features(config):
            found["s_uv"] = f"{config.mlp.name} has no hidden features to scale"
        return found

    def notices(self, config: Architecture) -> tuple[str, ...]:
        own = (f"the common factor of s_uv cancels: {config.mlp.name} passes it on to an output that is normalized",)
        return own if config.mlp.is_homogeneous and not config.bias else ()

    @property
    def constrain(self) -> Callable[[Tensor], Tensor]:
        return self.projection or unit

    @property
    def normalize_source(self) -> Callable[[Tensor], Tensor]:
        return self.projection or unit

    def penalize_embedding(self, weight_vd: Tensor) -> Tensor | None:
        """Weigh the mean (e_i . e_j)^2 over i != j. The sum over all pairs is that of (E^T E)^2, which is smaller."""
        if not self.embedding_orthogonality:
            return None
        weight_vd, n = upcast(weight_vd), len(weight_vd)
        total = (weight_vd.mT @ weight_vd).square().sum() - weight_vd.square().sum(1).square().sum()
        return self.embedding_orthogonality * total / max(n * (n - 1), 1)

    def build_input(self, config: Architecture) -> nn.Module | None:
        return None if self.has_unit_weights else Restore(self.spheres)

    def build_residual(self, config: Architecture, site: Site) -> Residual:
        knobs = self.alpha_attn if site == "attention" else self.alpha_mlp
        alpha = LearnedScale(knobs, config.d_model, config)
        has_copy = site == "attention" and not config.linear.has_input_norm  # for the matrix product of the MLP
        is_positive, weight = self.alpha_sign == "abs", self.branch_orthogonality
        return SphereResidual(alpha, self.update, is_positive, site, has_copy, self.spheres, weight)

    def build_query_key(self, config: Architecture, n_heads: int, width: int) -> HeadPlacement:
        s_qk = LearnedScale(self.s_qk, n_heads * width, config)
        return SphereQueryKey(s_qk, n_heads, width, self.qk_norm, self.norm_eps)

    def build_hidden_scale(self, config: Architecture, n_features: int) -> nn.Module:
        factor, n_gates = math.sqrt(config.d_model) / self.num_hyperspheres, 0
        s_gate = None
        if self.s_gate is not None:
            n_gates = config.mlp.gate_features(config)
            s_gate = LearnedScale(self.s_gate, n_gates, config)
        s_uv = LearnedScale(self.s_uv, n_features - n_gates, config)
        return SphereHiddenScale(s_uv, factor, s_gate, (n_features - n_gates, n_gates))

    def build_final(self, config: Architecture) -> Final:
        return SphereFinal(LearnedScale(self.s_z, config.vocab_size, config), self.num_hyperspheres)

    def build_end(self, config: Architecture) -> nn.Module:
        return nn.Identity()  # the stream consists of unit vectors already

    def num_encoder_params(self, config: Architecture) -> int:
        return 0

    def num_residual_params(self, config: Architecture, site: Site) -> int:
        alpha, scale, n_scaled = self.alpha_mlp, self.s_uv, config.mlp.hidden_features(config)
        gates = 0
        if site == "attention":
            alpha, scale, n_scaled = self.alpha_attn, self.s_qk, config.attention.query_features(config)
        elif self.s_gate is not None:
            n_gates = config.mlp.gate_features(config)
            n_scaled, gates = n_scaled - n_gates, self.s_gate.num_params(n_gates)
        return alpha.num_params(config.d_model) + (scale.num_params(n_scaled) if n_scaled else 0) + gates

    def num_model_params(self, config: Architecture) -> int:
        return self.s_z.num_params(config.vocab_size)


def _is_positive(alpha: Scale) -> bool:
    return all(isinstance(value, str) or value >= 0 for value in alpha.values("init"))
