"""The language model."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention.base import Context
from .cache import Cache
from .config import ModelConfig
from .declared import Declared, Role, walk_declared
from .init import initialize
from .kernels.cross_entropy import IGNORED_TARGET, linear_cross_entropy
from .kernels.fastest import choose_fastest, default_cache
from .kernels.report import collect_calls, report_attention
from .linear.base import Embedding, Head, multiply
from .numerics import project, upcast


class GPT(nn.Module):
    """A decoder-only transformer, initialised with a seed.

    `backend` is the attention backend (kernels/attention.py) of every layer.
    """

    def __init__(self, config: ModelConfig, backend: str = "auto", seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.backend = backend
        self.measured_ms: dict[str, float] = {}  # by backend, where the fastest was chosen
        self.embedding = Embedding(config, config.vocab_size)
        self.position = config.position.build(config)
        self.input = config.normalization.build_input(config)
        self.stack = config.topology.build(config)
        self.final = config.normalization.build_final(config)
        self.head = None if config.tie_embeddings else Head(config)
        self.settle, self.source = config.normalization.settle, config.normalization.source
        self._compiled_end: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
        self.initialize(seed)

    def initialize(self, seed: int) -> None:
        """Start again: each parameter from a stream keyed by (seed, its name); nGPT's weights then go to the sphere."""
        initialize(self, seed)
        self.post_step()

    def forward(self, ids_bt: Tensor, cache: Cache | None = None) -> Tensor:
        """Token ids (b, t) to logits (b, t, v). With a cache, ids are the newest tokens and the cache grows by them."""
        return self._form_logits(self.encode(ids_bt, cache))

    def encode(self, ids_bt: Tensor, cache: Cache | None = None) -> Tensor:
        """The residual stream (b, t, d) after the last block."""
        start, length = (0 if cache is None else cache.length), ids_bt.shape[1]
        h_btd = self.embedding(ids_bt)
        position_td = self.position.embed(start, length)
        if position_td is not None:
            h_btd = self.settle(h_btd + position_td)
        h_btd = F.dropout(self.input(h_btd), self.config.dropout, self.training)
        tables = self.position.tables(start, length, h_btd.device, torch.promote_types(h_btd.dtype, torch.float32))
        source_btd = self.source(h_btd) if self.config.embedding_shortcut else None
        out_btd: Tensor = self.stack(h_btd, Context(tables, self.backend, source_btd), cache)
        if cache is not None:
            cache.length += length
        return out_btd

    def loss(self, ids_bt: Tensor, targets_bt: Tensor) -> Tensor:
        """Mean cross-entropy in nats, a float32 scalar; targets equal to IGNORED_TARGET do not count."""
        return self.stream_loss(self.encode(ids_bt), targets_bt)

    def stream_loss(self, h_btd: Tensor, targets_bt: Tensor) -> Tensor:
        """The loss from the residual stream (b, t, d) that `encode` gives."""
        targets_n = targets_bt.flatten()
        if h_btd.device.type == "cpu":  # where whole logits take two thirds of the time (1024 tokens, 256 entries)
            return F.cross_entropy(self._form_logits(h_btd).flatten(0, 1), targets_n, ignore_index=IGNORED_TARGET)
        h_btd, weight_vd = (self._compiled_end or self.read_end)(h_btd)
        is_compiled = self._compiled_end is not None
        cap = self.config.logit_softcap
        return linear_cross_entropy(h_btd.flatten(0, 1), weight_vd, targets_n, cap, is_compiled=is_compiled)

    def _form_logits(self, h_btd: Tensor) -> Tensor:
        logits_btv: Tensor = self.final.scale(upcast(multiply(self.final.read(h_btd), self._head_weight())))
        cap = self.config.logit_softcap
        return logits_btv if cap is None else cap * torch.tanh(logits_btv / cap)

    def read_end(self, h_btd: Tensor) -> tuple[Tensor, Tensor]:
        """The stream as the head reads it, and the head's matrix with the scale of the logits in its rows.

        Scaled rows of the matrix instead of scaled logits: the same product, and no pass over the logits.
        """
        return self.final.read(h_btd), self.final.scale(upcast(self._head_weight()).mT).mT

    def _head_weight(self) -> Tensor:
        return (self.embedding if self.head is None else self.head).read_weight()

    def unit_axes(self) -> dict[Tensor, int]:
        """The weights whose vectors nGPT keeps on the unit sphere after each step, and the dimension they lie along."""
        if not self.config.normalization.has_unit_weights_after_step:
            return {}
        return {parameter: spec.axis for _, parameter, spec in walk_declared(self) if spec.axis is not None}

    @torch.no_grad()
    def post_step(self, unit: AbstractSet[Tensor] = frozenset()) -> None:
        """To be called after every optimizer step: projects weights back to the unit sphere where nGPT asks for it.

        Those in `unit` are there already; those on the meta device have no values.
        """
        for weight, axis in self.unit_axes().items():
            if weight not in unit and not weight.is_meta:
                project(weight, axis)

    def compile_blocks(self) -> None:
        """Compile the blocks in place, which share one graph, so that depth costs no compilation time; and the loss."""
        for block in self.stack.blocks:
            block.compile(dynamic=False)
        self._compiled_end = torch.compile(self.read_end, dynamic=False)

    def recompute_blocks(self) -> None:
        """Keep the input of each block alone for the backward pass, which computes the rest again (1604.06174)."""
        self.stack.recomputes = True

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """AdamW's groups: parameters of two or more dimensions decay, the others do not."""
        decayed = [parameter for parameter in self.parameters() if parameter.dim() >= 2]
        rest = [parameter for parameter in self.parameters() if parameter.dim() < 2]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]

    def parameter_roles(self) -> dict[str, Role]:
        """Parameter name -> what it is for an optimizer: matrix (hidden, Muon's), embedding, head, gate or vector."""
        return {name: spec.role for name, _, spec in walk_declared(self)}

    def choose_backend(
        self, n_sequences: int, dtype: torch.dtype = torch.float32, cache: str | Path | None = None
    ) -> None:
        """Take the attention backend whose kernels are fastest for `n_sequences` at once under autocast to `dtype`.

        Measured once per shape and machine, and remembered in `cache`, by default a file of this user.
        Raises torch.OutOfMemoryError if no backend has enough memory.
        """
        calls = collect_calls(self, n_sequences, dtype)
        if calls:
            self.measured_ms = choose_fastest(calls, Path(cache or default_cache()))
            self.backend = next(iter(self.measured_ms))

    def report_attention(self, dtype: torch.dtype = torch.float32) -> dict[str, str]:
        """Which attention backend and kernel a forward pass under autocast to `dtype` runs on, and why."""
        return report_attention(self, dtype)

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """Scalars of the variants, "name/layer" inside blocks and "name" outside, fetched from the device at once."""
        found = self._collect_diagnostics()
        if not found:
            return {}
        values = torch.stack([value.reshape(()).to(torch.float64) for value in found.values()]).tolist()
        return dict(zip(found, values, strict=True))

    @classmethod
    @torch.no_grad()
    def diagnostic_names(cls, config: ModelConfig) -> tuple[str, ...]:
        """The names that `diagnostics` has for a model, which needs no memory for its weights."""
        with torch.device("meta"):
            return tuple(cls(config)._collect_diagnostics())

    def _collect_diagnostics(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for path, module in self.named_modules():
            if isinstance(module, Declared):
                layer = path.split(".")[2:3] if path.startswith("stack.blocks.") else []
                found.update({"/".join([name, *layer]): value for name, value in module.diagnostics().items()})
        return found
