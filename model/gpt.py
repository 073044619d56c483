"""The language model, and what it shares with models that have an encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .blocks import Stack
from .cache import Cache
from .config import ModelConfig
from .context import Context, Padding, find_seen
from .kernels.cross_entropy import IGNORED_TARGET, linear_cross_entropy
from .layers import Embedding, multiply
from .numerics import is_stacked, upcast
from .parameters import SpecModel
from .residual import Final
from .training_methods import TrainingMethods


class HeadedModel(SpecModel, TrainingMethods):
    """A model with an embedding, and a head that turns its stream into logits.

    `backend` is the attention backend of every layer; `measured_ms` holds times, if attention_backend.py measured it.
    """

    embedding: Embedding
    final: Final
    head: Embedding | None

    def __init__(self, config: ModelConfig, backend: str) -> None:
        super().__init__()
        self.config, self.has_unit_weights = config, config.normalization.has_unit_weights_after_step
        self.projection = config.normalization.projection
        self.has_penalties = any(getattr(config, axis).has_penalty for axis in config.axes)
        self.backend = backend
        self.measured_ms: dict[str, float] = {}
        self.normalize_source = config.normalization.normalize_source
        self._compiled_end: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def stream_loss(self, h_btd: Tensor, targets_bt: Tensor) -> Tensor:
        """Compute the loss from the residual stream (..., d) after the last block."""
        targets_n = targets_bt.flatten()
        # Whole logits take two thirds of the time on a CPU (1024 tokens, 256 entries). Stacked models are small.
        if h_btd.device.type == "cpu" or is_stacked(h_btd):
            return F.cross_entropy(self.form_logits(h_btd).flatten(0, -2), targets_n, ignore_index=IGNORED_TARGET)
        h_btd, weight_vd = (self._compiled_end or self.read_end)(h_btd)
        cap, is_compiled = self.config.logit_softcap, self._compiled_end is not None
        return linear_cross_entropy(h_btd.flatten(0, -2), weight_vd, targets_n, cap, is_compiled=is_compiled)

    def form_logits(self, h_btd: Tensor) -> Tensor:
        """Turn the stream (..., d) after the last block into logits (..., v)."""
        return self.scale_logits(multiply(self.final.read(h_btd), self.head_weight()))

    def scale_logits(self, logits_btv: Tensor) -> Tensor:
        """Apply the scale of the normalization and the softcap to the head's products."""
        logits_btv = upcast(logits_btv)
        scale_v, cap = self.final.logit_scale(), self.config.logit_softcap
        logits_btv = logits_btv if scale_v is None else logits_btv * scale_v
        return logits_btv if cap is None else cap * torch.tanh(logits_btv / cap)

    def read_end(self, h_btd: Tensor) -> tuple[Tensor, Tensor]:
        """Return the stream as the head reads it, and the head's matrix with the scale of the logits in its rows.

        Scaling the rows gives the same logits without a pass over them.
        """
        weight_vd, scale_v = upcast(self.head_weight()), self.final.logit_scale()
        return self.final.read(h_btd), weight_vd if scale_v is None else (weight_vd.mT * scale_v).mT

    def head_weight(self) -> Tensor:
        return (self.embedding if self.head is None else self.head).read_weight()


class GPT(HeadedModel):
    """A language model of one stack, initialized with a seed: decoder-only, or bidirectional (encoders/)."""

    def __init__(self, config: ModelConfig, backend: str = "auto", seed: int = 0) -> None:
        super().__init__(config, backend)
        self.is_causal = config.is_causal
        self.embedding = Embedding(config, config.vocab_size)
        self.position = config.position.build(config)
        self.input = config.normalization.build_input(config)
        self.stack: Stack = config.topology.build(config)
        end = config.topology.end(config)
        self.final = config.normalization.build_final(end)
        self.head = None if config.tie_embeddings else Embedding(end, config.vocab_size, "head")
        self.initialize(seed)

    def forward(self, ids_bt: Tensor, cache: Cache | None = None, padding: Padding = None) -> Tensor:
        """Token ids (b, t) to logits (b, t, v). With a cache, ids are the newest tokens and the cache grows by them.

        `padding` is the id of padding tokens, or a mask (b, t) that is True at them; no other token sees them.
        """
        return self.form_logits(self.encode(ids_bt, cache, padding))

    def encode(self, ids_bt: Tensor, cache: Cache | None = None, padding: Padding = None) -> Tensor:
        """Compute the residual stream (b, t, d) after the last block."""
        h_btd, context = self.embed(ids_bt, 0 if cache is None else cache.length)
        context.seen = find_seen(ids_bt, padding)
        if cache is not None:
            cache.check_budget(self.config.attention.name, prunes=self.config.attention.prunes_cache)
            context.seen = cache.extend_seen(context.seen, ids_bt)
        out_btd: Tensor = self.stack(h_btd, context, cache)
        if cache is not None:
            cache.length += ids_bt.shape[1]
        return out_btd

    def embed(self, ids_bt: Tensor, start: int = 0) -> tuple[Tensor, Context]:
        """Compute the stream (b, t, d) before the first block, for tokens from position `start` on."""
        h_btd, tables = self.position(self.embedding(ids_bt), start)
        if self.input is not None:
            h_btd = self.input(h_btd)
        h_btd = F.dropout(h_btd, self.config.dropout, self.training)
        source_btd = self.normalize_source(h_btd) if self.config.embedding_shortcut else None
        return h_btd, Context(tables, self.backend, source_btd, is_causal=self.is_causal)

    def loss(self, ids_bt: Tensor, targets_bt: Tensor, padding: Padding = None) -> Tensor:
        """Compute the mean cross-entropy in nats, a float32 scalar; targets equal to IGNORED_TARGET do not count."""
        loss = self.stream_loss(self.encode(ids_bt, padding=padding), targets_bt)
        return self.add_penalties(loss) if self.has_penalties else loss

    def stacks(self) -> tuple[Stack, ...]:
        return (self.stack,)

    def probe(self, n_sequences: int) -> None:
        ids_bt = torch.zeros(n_sequences, self.config.context_length, dtype=torch.long)
        self.encode(ids_bt.to(self.embedding.weight.device))
