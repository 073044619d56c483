"""The layer that all attentions made of softmax heads share."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cache import LayerCache
from ..context import Context
from ..contracts import Architecture
from ..kernels.attention import attend
from ..kernels.call import Bias, Call
from ..kernels.stacked import attend_folded, can_fold
from ..layers import build_reader, build_writer
from ..numerics import is_stacked
from ..parameters import Spec, SpecModule
from .across import attend_across
from .heads import HeadAttention
from .query_key_norm import build_qk_norm
from .value_residual import mix_values


class HeadLayer(SpecModule):
    """Queries, keys and values through one kernel call. Subclasses override `attend`."""

    def __init__(self, config: Architecture, knobs: HeadAttention, layer: int) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, knobs.kv_heads(config)
        self.qk_width, self.v_width = knobs.qk_width(config), config.head_dim
        self.window, self.softcap = knobs.window, knobs.logit_softcap
        n_query, n_key = knobs.query_heads(config), knobs.key_heads(config)
        self.query = build_reader(config, n_query * self.qk_width)
        self.key = build_reader(config, n_key * self.qk_width)
        self.value = build_reader(config, self.n_kv_heads * self.v_width)
        self.output = build_writer(config, config.d_model)
        self.rotate = config.position.rotate
        self.qk_norm = build_qk_norm(knobs.qk_norm, n_query, self.qk_width)
        self.norm_is_first = knobs.qk_norm_place == "before_position"
        self.mixes_values, self.is_first = config.value_residual != "none", layer == 0
        has_mix = config.value_residual == "learned" and layer > 0
        self.value_mix = self.declare("value_mix", (1,), Spec("vector", mean=0.5)) if has_mix else None
        self.query_key = config.normalization.build_query_key(config, n_query, self.qk_width)
        self.scale = 1.0 if knobs.qk_norm == "l2" else self.qk_width**-0.5
        if self.query_key is not None:
            self.scale = self.query_key.scale

    def forward(self, x_btd: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """(b, t, d) -> (b, t, d). With a cache, x holds the newest t tokens."""
        if context.memory is not None:
            return attend_across(self, x_btd, context.memory, context, cache)
        q_bthk, k_bshk, v_bshv = self.split(self.query(x_btd), self.key(x_btd), self.value(x_btd))
        if self.mixes_values:
            v_bshv = mix_values(v_bshv, context, self.is_first, self.value_mix)
        q_bthk, k_bshk = (x.to(v_bshv.dtype) for x in self.place(q_bthk, k_bshk, context))
        if cache is not None:
            k_bshk, v_bshv = cache.append("key", k_bshk), cache.append("value", v_bshv)
        mixed_btd: Tensor = self.output(self.attend(q_bthk, k_bshk, v_bshv, x_btd, context, cache).flatten(2))
        return mixed_btd

    def split(self, q_btf: Tensor, k_bsf: Tensor, v_bsf: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split features into heads: queries (b, t, h, k), keys (b, s, h, k) and values (b, s, g, v)."""
        q_bthk, k_bshk = (torch.unflatten(x, -1, (-1, self.qk_width)) for x in (q_btf, k_bsf))
        return q_bthk, k_bshk, torch.unflatten(v_bsf, -1, (-1, self.v_width))

    def place(self, q_bthk: Tensor, k_bshk: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Apply positions and norms, in float32."""
        if self.query_key is not None:
            placed: tuple[Tensor, Tensor] = self.query_key(q_bthk, k_bshk, self.rotate, context.tables)
            return placed
        if self.qk_norm is not None and self.norm_is_first:
            q_bthk, k_bshk = self.qk_norm(q_bthk, k_bshk)
        q_bthk, k_bshk = self.rotate(q_bthk, context.tables), self.rotate(k_bshk, context.tables)
        if self.qk_norm is not None and not self.norm_is_first:
            q_bthk, k_bshk = self.qk_norm(q_bthk, k_bshk)
        return q_bthk, k_bshk

    def attend(
        self, q_bthk: Tensor, k_bshk: Tensor, v_bshv: Tensor, x_btd: Tensor, context: Context, cache: LayerCache | None
    ) -> Tensor:
        """From placed heads to outputs (b, t, n_heads, v).

        The newest t of the s keys and values belong to x, or, with a memory, all of them to the memory.
        """
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
        """Call the kernel with this layer's scale, window and softcap."""
        is_deterministic = torch.are_deterministic_algorithms_enabled()
        own = (self.scale, self.window, bias, self.softcap, sink, is_deterministic, context.seen)
        call = Call(q_bthk, k_bshk, v_bshv, context.is_causal, *own)
        return (attend_folded if is_stacked(call.q) and can_fold(call) else attend)(call, context.backend)
