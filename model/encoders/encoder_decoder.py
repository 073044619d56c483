"""The encoder-decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..blocks import Block, Stack
from ..cache import Cache, LayerCache
from ..config import ModelConfig
from ..context import Context, Padding, find_seen
from ..contracts import Architecture
from ..gpt import HeadedModel
from ..kernels.cross_entropy import IGNORED_TARGET
from ..layers import Embedding
from ..parameters import SpecModule
from .encoder_decoder_config import EncoderDecoderConfig


class DecoderBlock(Block):
    """A block with cross-attention between its self-attention and its MLP."""

    def __init__(self, config: EncoderDecoderConfig, layer: int, depth: int) -> None:
        super().__init__(config, layer, depth)
        view = config.cross.at(depth)
        self.cross = view.attention.build(view, depth)
        self.cross_residual = view.normalization.build_residual(view, "attention")

    def forward(self, h_btd: Tensor, context: Context, cache: LayerCache | None = None) -> Tensor:
        """(b, t, d) -> (b, t, d)."""
        assert context.cross is not None  # `EncoderDecoder.decode` makes one
        h_btd, x_btd = self.attend(h_btd, context, cache)
        y_btd: Tensor = self.cross(self.cross_residual.read(x_btd), context.cross, cache)
        return self.transform(*self.cross_residual.write(h_btd, F.dropout(y_btd, self.dropout, self.training)))


class DecoderStack(Stack):
    def build_block(self, config: Architecture, layer: int, depth: int) -> Block:
        assert isinstance(config, EncoderDecoderConfig)  # the only config that EncoderDecoder passes on
        return DecoderBlock(config, layer, depth)


class Entrance(SpecModule):
    """Positions, the normalization's input module and dropout: token vectors to the stream before the first block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.position = config.position.build(config)
        self.input = config.normalization.build_input(config)
        self.dropout, self.is_causal = config.dropout, config.is_causal
        self.normalize_source = config.normalization.normalize_source if config.embedding_shortcut else None

    def forward(self, h_btd: Tensor, start: int, backend: str) -> tuple[Tensor, Context]:
        h_btd, tables = self.position(h_btd, start)
        h_btd = F.dropout(h_btd if self.input is None else self.input(h_btd), self.dropout, self.training)
        source_btd = None if self.normalize_source is None else self.normalize_source(h_btd)
        return h_btd, Context(tables, backend, source_btd, is_causal=self.is_causal)


@dataclass(frozen=True)
class Memory:
    """The encoder's output (b, s, d), and which of its tokens are not padding (b, s), or None if all are not."""

    states_bsd: Tensor
    seen_bs: Tensor | None

    def repeat(self, n: int) -> Memory:
        """Repeat every sequence n times, as the beams of a search need it."""
        seen_bs = None if self.seen_bs is None else self.seen_bs.repeat_interleave(n, dim=0)
        return Memory(self.states_bsd.repeat_interleave(n, dim=0), seen_bs)


class EncoderDecoder(HeadedModel):
    """An encoder-decoder transformer, initialized with a seed: source and target ids to logits of the target.

    The encoder's output is normalized as a GPT's is before its head. A ModelConfig gives encoder and decoder the same
    settings. Inside nGPT, the encoder's output consists of unit vectors already, so keys and values of the
    cross-attention are read from the sphere by unit rows, as everywhere else; queries and keys are normalized and
    scaled by s_qk, and the decoder moves to the result by a third step size a_C, which starts like alpha_attn:
    h <- Norm(h + a_C (Norm(CROSS(h, memory)) - h)).
    """

    config: EncoderDecoderConfig

    def __init__(self, config: ModelConfig, backend: str = "auto", seed: int = 0) -> None:
        config = EncoderDecoderConfig.of(config)
        super().__init__(config, backend)
        self.embedding = Embedding(config, config.vocab_size)
        has_own = not config.share_embeddings
        self.source_embedding = Embedding(config.encoder, config.source_vocab_size) if has_own else None
        self.source_entrance, self.target_entrance = Entrance(config.encoder), Entrance(config)
        self.encoder = Stack(config.encoder)
        self.encoder_end: nn.Module = config.normalization.build_end(config.encoder)
        self.decoder = DecoderStack(config)
        self.final = config.normalization.build_final(config)
        self.head = None if config.tie_embeddings else Embedding(config, config.vocab_size, "head")
        self.initialize(seed)

    def forward(self, source_bs: Tensor, target_bt: Tensor, padding: Padding = None) -> Tensor:
        """Source ids (b, s) and target ids (b, t) to logits (b, t, v); a target token sees no later one.

        `padding` is the id of padding tokens, which no other token sees, on both sides. If it is a mask, it is the
        source's (b, s), True at padding.
        """
        states_btd = self.decode(target_bt, self.encode(source_bs, padding), padding=_on_target(padding))
        return self.form_logits(states_btd)

    def encode(self, source_bs: Tensor, padding: Padding = None) -> Memory:
        """Run the encoder."""
        vectors_bsd = (self.source_embedding or self.embedding)(source_bs)
        h_bsd, context = self.source_entrance(vectors_bsd, 0, self.backend)
        context.seen = find_seen(source_bs, padding)
        return Memory(self.encoder_end(self.encoder(h_bsd, context)), context.seen)

    def decode(self, target_bt: Tensor, memory: Memory, cache: Cache | None = None, padding: Padding = None) -> Tensor:
        """Compute the decoder's stream (b, t, d) after its last block.

        With a cache, ids are the newest tokens; keys and values of the memory are then computed only once.
        """
        start = 0 if cache is None else cache.length
        h_btd, context = self.target_entrance(self.embedding(target_bt), start, self.backend)
        context.seen = find_seen(target_bt, padding)
        if cache is not None:
            cache.check_budget(self.config.attention.name, prunes=self.config.attention.prunes_cache)
            context.seen = cache.extend_seen(context.seen, target_bt)
            cache.length += target_bt.shape[1]
        context.cross = Context((), self.backend, is_causal=False, seen=memory.seen_bs, memory=memory.states_bsd)
        out_btd: Tensor = self.decoder(h_btd, context, cache)
        return out_btd

    def loss(
        self,
        source_bs: Tensor,
        target_bt: Tensor,
        labels_bt: Tensor,
        padding: Padding = None,
        label_smoothing: float = 0.0,
        n_labels: Tensor | None = None,
    ) -> Tensor:
        """Compute the mean cross-entropy of the labels in nats, with the true target so far as input.

        The label of a position is usually the target's next token. Labels equal to IGNORED_TARGET, or to an integer
        `padding`, do not count. With `label_smoothing` e, the label gets 1 - e and all tokens share e. The sum over
        labels is divided by `n_labels`, by default their number. The parts of a batch share one value of it, so that
        every label of the batch weighs the same.
        """
        if isinstance(padding, int):
            labels_bt = labels_bt.masked_fill(labels_bt == padding, IGNORED_TARGET)
        h_btd = self.decode(target_bt, self.encode(source_bs, padding), padding=_on_target(padding))
        if label_smoothing:
            logits_nv = self.form_logits(h_btd).flatten(0, 1)
            settings = {"ignore_index": IGNORED_TARGET, "label_smoothing": label_smoothing}
            loss = F.cross_entropy(logits_nv, labels_bt.flatten(), **settings)  # type: ignore[arg-type]
        else:
            loss = self.stream_loss(h_btd, labels_bt)
        if n_labels is not None:
            loss = loss * ((labels_bt != IGNORED_TARGET).sum() / n_labels).to(loss.dtype)
        return self.add_penalties(loss)

    def stacks(self) -> tuple[Stack, ...]:
        return self.encoder, self.decoder

    def probe(self, n_sequences: int) -> None:
        sizes = (self.config.source_length, self.config.context_length)
        ids = [torch.zeros(n_sequences, n, dtype=torch.long, device=self.embedding.weight.device) for n in sizes]
        self.decode(ids[1], self.encode(ids[0]))

    def collect_diagnostics(self) -> dict[str, Tensor]:
        """Return the scalars of all modules, with "encoder_" and "cross_" before the names of those parts."""
        found: dict[str, Tensor] = {}
        for path, module in self.named_modules():
            if isinstance(module, SpecModule):
                parts = path.split(".")
                layer = parts[2:3] if parts[1:2] == ["blocks"] else []
                place = "encoder_" if parts[0] == "encoder" else ""
                place = "cross_" if parts[3:4] in (["cross"], ["cross_residual"]) else place
                found.update({"/".join([place + name, *layer]): value for name, value in module.diagnostics().items()})
        return found


def _on_target(padding: Padding) -> int | None:
    return padding if isinstance(padding, int) else None
