"""What all attentions made of softmax heads share: projections, positions, query-key norms, one kernel call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from ..cache import LayerCache
from ..declared import Spec
from ..dropped import NO_ATTENTION
from ..errors import ConfigError
from ..kernels.attention import attention
from ..kernels.bias import Bias
from ..linear.base import build_reader, build_writer, count_linear
from ..numerics import split_last
from ..position.base import keep
from ..position.rope import rotate_pairs
from .base import Attention, AttentionLayer, Context
from .head_norm import can_fuse_maps
from .query_key_norm import QueryKeyNorm, build_qk_norm, count_qk_norm

if TYPE_CHECKING:
    from ..config import ModelConfig


class HeadAttention(Attention, ABC):
    """The knobs and prices of softmax heads. `n_heads` of the model counts value heads, of width d_model / n_heads."""

    n_kv_heads: int | None = Field(
        default=None, ge=1, le=1_000_000, description="value heads; fewer than n_heads is GQA, 1 is MQA"
    )
    qk_head_dim: int | None = Field(
        default=None, ge=1, le=1_000_000, description="width of one map's queries and keys, by hand"
    )
    qk_norm: QueryKeyNorm = Field(
        default="none", description="normalise each query and key head: rms has a gain, l2 a temperature a head"
    )
    qk_norm_place: Literal["before_position", "after_position"] = Field(
        default="before_position", description="where qk_norm stands relative to the positional encoding"
    )
    logit_softcap: float | None = Field(default=None, gt=0.0, le=1e12, description="logits <- c tanh(logits / c)")
    window: int | None = Field(
        default=None, ge=1, le=1_000_000_000, description="a query sees this many newest keys, itself included"
    )

    # how many heads there are
    def kv_heads(self, config: ModelConfig) -> int:
        return self.n_kv_heads or config.n_heads

    @abstractmethod
    def query_heads(self, config: ModelConfig) -> int: ...

    @abstractmethod
    def key_heads(self, config: ModelConfig) -> int: ...

    def default_qk_width(self, config: ModelConfig) -> int:
        return config.head_dim

    def qk_width(self, config: ModelConfig) -> int:
        return self.qk_head_dim or self.default_qk_width(config)

    def query_features(self, config: ModelConfig) -> int:
        return self.query_heads(config) * self.qk_width(config)

    # what a subclass adds to the projections
    def num_extra_params(self, config: ModelConfig) -> int:
        return 0

    def extra_flops(self, config: ModelConfig, visible: float) -> float:
        """Forward FLOPs a token beyond projections and the kernel call; `visible` is twice the mean number of keys."""
        return 0

    def resolve(self, config: ModelConfig) -> Self:
        return self.model_copy(update={"n_kv_heads": self.kv_heads(config), "qk_head_dim": self.qk_width(config)})

    def check(self, config: ModelConfig) -> None:
        if self.qk_width(config) < 1:
            n_query = self.query_heads(config)
            raise ConfigError(
                "n_heads", f"d_model = {config.d_model} has no room for {n_query} query heads of even width"
            )
        if config.n_heads % self.kv_heads(config):
            divisors = [n for n in range(1, config.n_heads + 1) if config.n_heads % n == 0]
            raise ConfigError("attention.n_kv_heads", f"must divide n_heads = {config.n_heads}", divisors)
        if self.qk_norm != "none" and config.normalization.owns_query_key_norm:
            name = config.normalization.name
            raise ConfigError(
                "attention.qk_norm",
                f"queries and keys are normalised by {name}, which has its own knob for it",
                ["none"],
            )

    def idle(self, config: ModelConfig) -> dict[str, str]:
        found = super().idle(config)
        if not config.count_kept("attention"):
            width = type(self)().default_qk_width(config)
            is_legal = width > 0 and width % 2 == 0  # for every position, which looks at the width nevertheless
            knobs = [name for name in type(self).model_fields if is_legal or name != "qk_head_dim"]
            return dict.fromkeys(knobs, NO_ATTENTION)
        if self.qk_norm == "none":
            found["qk_norm_place"] = "there is no qk_norm"
        elif config.position.rotate is keep:
            found["qk_norm_place"] = f"position {config.position.name} leaves queries and keys as they are"
        elif self.qk_norm == "l2" and config.position.rotate is rotate_pairs:
            found["qk_norm_place"] = "a rotation keeps the l2 norm"
        if self.window is not None and self.window >= config.context_length:
            found["window"] = f"a context has {config.context_length} tokens, all of which it shows"
        return found

    def projected_features(self, config: ModelConfig) -> tuple[int, int, int]:
        """The features of queries, keys and values."""
        keys = self.key_heads(config) * self.qk_width(config)
        return self.query_features(config), keys, self.kv_heads(config) * config.head_dim

    def notices(self, config: ModelConfig) -> tuple[str, ...]:
        queries, keys, values = self.projected_features(config)
        if queries == config.d_model:
            return ()
        more = (queries - config.d_model + keys - values) * config.d_model
        maps = f"{self.query_heads(config)} query heads of width {self.qk_width(config)}"
        usual = f"heads of width {config.head_dim}"
        return (
            f"{maps} make {queries} query features where d_model is {config.d_model}: "
            f"{more:+,} query and key weights a layer against {usual}",
        )

    def num_params(self, config: ModelConfig) -> int:
        readers = sum(count_linear(config, config.d_model, n) for n in self.projected_features(config))
        norm = count_qk_norm(self.qk_norm, self.query_heads(config), self.qk_width(config))
        return readers + count_linear(config, config.d_model, config.d_model) + norm + self.num_extra_params(config)

    def flops_per_token(self, config: ModelConfig, context_length: int) -> int:
        visible = float(context_length)
        if self.window is not None and self.window < context_length:
            visible = 2 * self.window - self.window**2 / context_length
        linear = 2 * config.d_model * (sum(self.projected_features(config)) + config.d_model)
        core = self.called_heads(config) * (self.qk_width(config) + config.head_dim) * visible
        return round(linear + core + self.extra_flops(config, visible))

    def called_heads(self, config: ModelConfig) -> int:
        """The heads of the kernel call: one a map and value head."""
        return self.query_heads(config)


class HeadLayer(AttentionLayer):
    """Queries, keys and values through one kernel call. Subclasses override `attend`."""

    def __init__(self, config: ModelConfig, knobs: HeadAttention, layer: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, knobs.kv_heads(config)
        self.qk_width, self.v_width = knobs.qk_width(config), config.head_dim
        self.window, self.softcap = knobs.window, knobs.logit_softcap
        self.output_rounds = not config.linear.has_input_norm
        n_query, n_key = knobs.query_heads(config), knobs.key_heads(config)
        self.query = build_reader(config, n_query * self.qk_width)
        self.key = build_reader(config, n_key * self.qk_width)
        self.value = build_reader(config, self.n_kv_heads * self.v_width)
        self.output = build_writer(config, config.d_model)
        self.rotate = config.position.rotate
        self.qk_norm = build_qk_norm(knobs.qk_norm, n_query, self.qk_width)
        self.norm_is_first = knobs.qk_norm_place == "before_position"
        scale = 1.0 if knobs.qk_norm == "l2" else self.qk_width**-0.5
        self.mixes_values = config.value_residual != "none"
        self.is_first = layer == 0
        has_mix = config.value_residual == "learned" and layer > 0
        self.value_mix = self.declare("value_mix", (1,), Spec("vector", mean=0.5)) if has_mix else None
        self.query_key = config.normalization.build_query_key(config, n_query, self.qk_width, scale)

    def forward(self, x_btd: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        q_bthk = split_last(self.query(x_btd), -1, self.qk_width)
        k_bshk = split_last(self.key(x_btd), -1, self.qk_width)
        v_bshv = split_last(self.value(x_btd), -1, self.v_width)
        if self.mixes_values:
            v_bshv = self.mix_values(v_bshv, context)
        q_bthk, k_bshk = self.place(q_bthk, k_bshk, context)
        q_bthk, k_bshk = q_bthk.to(v_bshv.dtype), k_bshk.to(v_bshv.dtype)
        if cache is not None:
            k_bshk, v_bshv = cache.append("key", k_bshk), cache.append("value", v_bshv)
        mixed_btd: Tensor = self.output(self.attend(q_bthk, k_bshk, v_bshv, x_btd, context, cache).flatten(2))
        return mixed_btd

    def mix_values(self, v_bshv: Tensor, context: Context) -> Tensor:
        """v <- (1 - m) v + m v_first, v_first the path's first values before any mixing (arXiv 2410.17897)."""
        if (
            self.is_first
        ):  # of its path; asked of the layer, because a recomputed one meets the values of its first time
            context.first_values = v_bshv
            return v_bshv
        assert context.first_values is not None  # config.py: the first layer of a path keeps its attention
        mix = 0.5 if self.value_mix is None else self.value_mix
        return (v_bshv + mix * (context.first_values - v_bshv)).to(v_bshv.dtype)

    def place(self, q_bthk: Tensor, k_bshk: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Positions and norms, in float32."""
        if self.norm_is_first:
            q_bthk, k_bshk = self.qk_norm(q_bthk, k_bshk)
            return self.query_key.rotate(q_bthk, k_bshk, self.rotate, context.tables)
        q_bthk, k_bshk = self.rotate(q_bthk, context.tables), self.rotate(k_bshk, context.tables)
        placed: tuple[Tensor, Tensor] = self.query_key(*self.qk_norm(q_bthk, k_bshk))
        return placed

    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor:
        """From placed heads to outputs (b, t, n_heads, v); the newest t of the s keys and values belong to x."""
        return self.call(q_bthk, k_bshk, v_bshv, context)

    def call(
        self,
        q_bthk: Tensor,
        k_bshk: Tensor,
        v_bshv: Tensor,
        context: Context,
        bias: Bias | None = None,
        sink: Tensor | None = None,
    ) -> Tensor:
        """The kernel with this layer's scale, window and softcap."""
        return attention(
            q_bthk,
            k_bshk,
            v_bshv,
            scale=self.query_key.scale,
            window=self.window,
            softcap=self.softcap,
            bias=bias,
            sink=sink,
            backend=context.backend,
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )

    def fuses_maps(self, out_bthmv: Tensor, norm: nn.Module) -> bool:
        """Whether a kernel sums and norms maps here. It rounds to their type, as the output layer does unless it first
        normalises or quantises.
        """
        return self.output_rounds and can_fuse_maps(out_bthmv, norm)

    def call_maps(self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, n_maps: int, context: Context) -> Tensor:
        """Several maps a value head in one call: outputs (b, t, n_heads, m, v).

        Queries are laid out (n_heads, m), keys (n_kv_heads, m), so the maps of a head are neighbours; values are shared
        by the maps of their head. Maps combine afterwards: (sum_i w_i A_i) V = sum_i w_i (A_i V).
        """
        n_groups, n_rep = self.n_kv_heads, self.n_heads // self.n_kv_heads
        if n_rep > 1:  # the kernel pairs neighbouring queries with one key head
            b, t, _, k = q_bthk.shape
            q_bthk = q_bthk.view(b, t, n_groups, n_rep, n_maps, k).transpose(3, 4).flatten(2, 4)
        v_bshv = v_bshv.unsqueeze(3).expand(-1, -1, -1, n_maps, -1).flatten(2, 3)
        out_bthv = self.call(q_bthk, k_bshk, v_bshv, context)
        b, t, _, v = out_bthv.shape
        return out_bthv.reshape(b, t, n_groups, n_maps, n_rep, v).transpose(3, 4).flatten(2, 3)
