"""Knobs and costs of all attentions made of softmax heads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Self

from pydantic import Field

from ..contracts import NO_ATTENTION, Architecture, Attention, Use, keep_heads
from ..errors import ConfigError
from ..position.rotation import rotate_pairs
from .query_key_norm import QueryKeyNorm, count_qk_norm


class HeadAttention(Attention, ABC):
    """Knobs and costs of softmax heads. The model's `n_heads` counts value heads, of width d_model / n_heads."""

    n_kv_heads: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="number of key and value heads; fewer than n_heads is GQA, 1 is MQA",
    )
    qk_head_dim: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="width of one map's queries and keys; null derives it from the model's sizes",
    )
    qk_norm: QueryKeyNorm = Field(
        default="none", description="normalize each query and key head: rms has a gain, l2 a temperature per head"
    )
    qk_norm_place: Literal["before_position", "after_position"] = Field(
        default="before_position", description="apply qk_norm before or after the positional encoding"
    )
    logit_softcap: float | None = Field(default=None, gt=0.0, le=1e12, description="logits <- c tanh(logits / c)")
    window: int | None = Field(
        default=None, ge=1, le=1_000_000_000, description="number of newest keys that a query sees, itself included"
    )

    def kv_heads(self, config: Architecture) -> int:
        return self.n_kv_heads or config.n_heads

    @abstractmethod
    def query_heads(self, config: Architecture) -> int: ...

    @abstractmethod
    def key_heads(self, config: Architecture) -> int: ...

    def default_qk_width(self, config: Architecture) -> int:
        return config.head_dim

    def qk_width(self, config: Architecture) -> int:
        return self.qk_head_dim or self.default_qk_width(config)

    def query_features(self, config: Architecture) -> int:
        return self.query_heads(config) * self.qk_width(config)

    def refuse(self, use: Use) -> str | None:
        if self.window is not None:
            return "a window counts the newest keys, and without a causal mask no key is the newest"
        return None

    # what a subclass adds to the projections
    def num_extra_params(self, config: Architecture) -> int:
        return 0

    def extra_flops(self, config: Architecture, visible: float) -> float:
        """Forward FLOPs per token beyond projections and the kernel; `visible` is twice the mean number of keys."""
        return 0

    def resolve(self, config: Architecture) -> Self:
        return self.model_copy(update={"n_kv_heads": self.kv_heads(config), "qk_head_dim": self.qk_width(config)})

    def check(self, config: Architecture) -> None:
        if self.qk_width(config) < 1:
            n_query = self.query_heads(config)
            raise ConfigError(
                "n_heads", f"d_model = {config.d_model} has no room for {n_query} query heads of even width"
            )
        if config.n_heads % self.kv_heads(config):
            divisors = [n for n in range(1, config.n_heads + 1) if config.n_heads % n == 0]
            raise ConfigError("attention.n_kv_heads", f"must divide n_heads = {config.n_heads}", divisors)

    def idle(self, config: Architecture) -> dict[str, str]:
        found = super().idle(config)
        if not config.count_kept("attention"):
            width = type(self)().default_qk_width(config)
            is_legal = width > 0 and width % 2 == 0  # because positions check the width anyway
            knobs = [name for name in type(self).model_fields if is_legal or name != "qk_head_dim"]
            return dict.fromkeys(knobs, NO_ATTENTION)
        if self.qk_norm == "none":
            found["qk_norm_place"] = "there is no qk_norm"
        elif config.position.rotate is keep_heads:
            found["qk_norm_place"] = f"position {config.position.name} leaves queries and keys unchanged"
        elif self.qk_norm == "l2" and config.position.rotate is rotate_pairs:
            found["qk_norm_place"] = "a rotation preserves the l2 norm"
        if self.window is not None and self.window >= config.context_length:
            found["window"] = f"it shows all {config.context_length} tokens of a context"
        return found

    def projected_features(self, config: Architecture) -> tuple[int, int, int]:
        """Number of query, key and value features per token."""
        keys = self.key_heads(config) * self.qk_width(config)
        return self.query_features(config), keys, self.kv_heads(config) * config.head_dim

    def notices(self, config: Architecture) -> tuple[str, ...]:
        queries, keys, values = self.projected_features(config)
        if queries == config.d_model:
            return ()
        more = (queries - config.d_model + keys - values) * config.d_model
        maps = f"{self.query_heads(config)} query heads of width {self.qk_width(config)}"
        usual = f"heads of width {config.head_dim}"
        return (
            f"{maps} make {queries} query features where d_model is {config.d_model}: "
            f"{more:+,} query and key weights per layer compared with {usual}",
        )

    def num_params(self, config: Architecture) -> int:
        readers = sum(config.linear_params(config.d_model, n) for n in self.projected_features(config))
        norm = count_qk_norm(self.qk_norm, self.query_heads(config), self.qk_width(config))
        return readers + config.linear_params(config.d_model, config.d_model) + norm + self.num_extra_params(config)

    def flops_per_token(self, config: Architecture, context_length: int) -> int:
        visible = float(context_length)
        if self.window is not None and self.window < context_length:
            visible = 2 * self.window - self.window**2 / context_length
        linear = 2 * config.d_model * (sum(self.projected_features(config)) + config.d_model)
        core = self.called_heads(config) * (self.qk_width(config) + config.head_dim) * visible
        return round(linear + core + self.extra_flops(config, visible))

    def flops_across(self, config: Architecture, n_keys: int) -> tuple[int, int]:
        queries, keys, values = self.projected_features(config)
        core = 2 * self.called_heads(config) * (self.qk_width(config) + config.head_dim) * n_keys
        per_query = 2 * config.d_model * (queries + config.d_model) + core + self.extra_flops(config, 2 * n_keys)
        return round(per_query), 2 * config.d_model * (keys + values)

    def called_heads(self, config: Architecture) -> int:
        """Number of heads in the kernel call: one per map and value head."""
        return self.query_heads(config)
