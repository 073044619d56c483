"""The configuration of the encoder-decoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self, TypeVar

from pydantic import Field, PrivateAttr, SerializeAsAny, field_validator

from ..config import TABLES, ModelConfig
from ..contracts import Architecture, Attention, Size
from ..cost import count_block_flops, count_block_params
from ..errors import ConfigError
from ..table import Table
from .bidirectional import BidirectionalConfig, CrossConfig

C = TypeVar("C", bound=ModelConfig)
SITES = ("encoder_attention", "decoder_attention", "cross_attention")
SHARED = tuple(axis for axis in TABLES if axis != "attention")


def _same_as(name: str) -> Any:
    """Make a default that copies another setting; if that is invalid, its own error is reported."""
    return lambda known: known.get(name, 1)


class EncoderDecoderConfig(ModelConfig):
    """An encoder and a decoder with cross-attention. Sizes are the decoder's, and the encoder's where it has no own.

    `attention` sets all three attentions; each can have its own. Every other component is shared, and a knob of the
    normalization that depends on `n_layers` takes the decoder's.
    """

    kind: ClassVar[str] = "encoder_decoder"
    axes: ClassVar[Mapping[str, Table[Any]]] = {
        **dict.fromkeys(SITES, TABLES["attention"]),
        **{axis: TABLES[axis] for axis in SHARED},
    }

    encoder_attention: SerializeAsAny[Attention] = Field(
        default_factory=_same_as("attention"), description="self-attention of the encoder, in both directions"
    )
    decoder_attention: SerializeAsAny[Attention] = Field(
        default_factory=_same_as("attention"), description="causal self-attention of the decoder"
    )
    cross_attention: SerializeAsAny[Attention] = Field(
        default_factory=_same_as("attention"), description="attention of the decoder to the encoder's output"
    )
    n_encoder_layers: int = Field(
        default_factory=_same_as("n_layers"), ge=1, le=10_000, description="blocks of the encoder, by default n_layers"
    )
    source_length: Size = Field(
        default_factory=_same_as("context_length"), description="source tokens, by default context_length"
    )
    source_vocab_size: Size = Field(
        default_factory=_same_as("vocab_size"), description="tokens of the source vocabulary, by default vocab_size"
    )
    share_embeddings: bool = Field(default=True, description="one embedding for source and target tokens")

    _encoder: BidirectionalConfig = PrivateAttr()
    _cross: CrossConfig = PrivateAttr()

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """Return the config, or make one with the settings of a GPT's. Raises ConfigError."""
        if isinstance(config, cls):
            return config
        if type(config) is not ModelConfig:
            raise ConfigError("", f"expected a {cls.__name__} or a ModelConfig, got a {type(config).__name__}")
        return cls.parse(config.to_dict())

    @field_validator(*SITES, mode="before")
    @classmethod
    def _parse_attention(cls, value: object) -> object:
        return TABLES["attention"].parse(value)

    def prepare(self) -> None:
        self.__dict__["attention"] = self.decoder_attention

    def finish(self) -> None:
        if self.topology.name != "sequential":
            raise ConfigError("topology", "encoder and decoder are plain stacks of blocks", ["sequential"])
        if self.dropped:
            raise ConfigError("dropped", "sub-layers of an encoder-decoder cannot be left out", ["[]"])
        if self.share_embeddings and self.source_vocab_size != self.vocab_size:
            why = "one embedding for source and target needs one vocabulary"
            raise ConfigError("source_vocab_size", f"{why}, or share_embeddings: false", [self.vocab_size])
        self.__dict__["decoder_attention"] = self.attention
        sizes = {
            "n_layers": self.n_encoder_layers,
            "context_length": self.source_length,
            "vocab_size": self.source_vocab_size,
            "tie_embeddings": False,
        }
        self._encoder = self._view(BidirectionalConfig, "encoder_attention", sizes)
        self._cross = self._view(CrossConfig, "cross_attention", {"position": "none", "value_residual": "none"})

    def _view(self, cls: type[C], site: str, changes: Mapping[str, Any]) -> C:
        """Return the model as one of its attentions sees it, and adopt that attention with its defaults filled in."""
        settings = {name: getattr(self, name) for name in Architecture.model_fields}
        try:
            view = cls(**{**settings, "attention": getattr(self, site), **changes})
        except ConfigError as error:
            first, _, rest = error.path.partition(".")
            path = ".".join(filter(None, (site, rest))) if first == "attention" else error.path
            raise ConfigError(path, error.message, error.legal) from None
        self.__dict__[site] = view.attention
        return view

    @property
    def encoder(self) -> BidirectionalConfig:
        """The encoder, as a model of one stack."""
        return self._encoder

    @property
    def cross(self) -> CrossConfig:
        """The decoder, as its cross-attention sees it."""
        return self._cross

    @property
    def n_writes(self) -> int:
        return 3 * self.n_layers

    def _views(self) -> Iterator[tuple[str, ModelConfig]]:
        yield from zip(SITES, (self.encoder, self, self.cross), strict=True)

    def num_params(self) -> int:
        attention = self.cross.attention.num_params(self.cross)
        attention += self.normalization.num_residual_params(self.cross, "attention")
        stacks = count_block_params(self.encoder) + count_block_params(self) + self.n_layers * attention
        outside = self.normalization.num_encoder_params(self.encoder) + self.normalization.num_model_params(self)
        outside += self.position.num_params(self.encoder) + self.position.num_params(self)
        rows = self.vocab_size * (1 if self.tie_embeddings else 2)
        rows += 0 if self.share_embeddings else self.source_vocab_size
        return stacks + outside + rows * self.d_model

    def forward_flops(self) -> tuple[int, int]:
        """Return the matmul FLOPs of a forward pass per source token and per target token, for full sequences."""
        per_query, per_key = self.cross.attention.flops_across(self.cross, self.source_length)
        source = count_block_flops(self.encoder, self.source_length) + self.n_layers * per_key
        target = count_block_flops(self, self.context_length) + self.n_layers * per_query
        return source, target + 2 * self.vocab_size * self.d_model

    def flops_per_source_token(self) -> int:
        """Return training FLOPs per source token: three times the forward pass, in the encoder and by the memory."""
        return 3 * self.forward_flops()[0]

    def flops_per_target_token(self) -> int:
        """Return training FLOPs per target token: three times the forward pass of the decoder."""
        return 3 * self.forward_flops()[1]

    def flops_per_token(self) -> int:
        """Return training FLOPs per target token, with its share of a full source."""
        total = self.flops_per_source_token() * self.source_length + self.flops_per_target_token() * self.context_length
        return round(total / self.context_length)

    def blocks_per_token(self) -> float:
        """Return the blocks per target token: its share of the encoder's, and cross-attention as half a block."""
        return 1.5 * self.n_layers + self.n_encoder_layers * self.source_length / self.context_length

    def resized(self, d_ff: int) -> Self:
        return self.parse({**self.to_dict(), "d_ff": d_ff})  # the views of encoder and cross-attention change too

    def component_notices(self) -> Iterable[str]:
        for site, view in self._views():
            yield from (f"{site}: {notice}" for notice in view.attention.notices(view))
        yield from (notice for axis in SHARED for notice in getattr(self, axis).notices(self))

    def idle(self) -> dict[str, str]:
        found = {f"{s}.{knob}": why for s, view in self._views() for knob, why in view.attention.idle(view).items()}
        for axis in SHARED:
            everywhere = [getattr(view, axis).idle(view) for view in (self, self.encoder)]
            common = everywhere[0].keys() & everywhere[1].keys()
            found.update({f"{axis}.{knob}": everywhere[0][knob] for knob in everywhere[0] if knob in common})
        if self.n_layers == self.n_encoder_layers == 1:
            found["value_residual"] = "both stacks have one layer"
        return found
