"""What a variant of each axis provides, and the architecture that it reads.

These contracts are one file because they need each other: an architecture has one variant of each axis, and the cost
of a variant depends on the rest of its architecture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor, nn

from .context import Tables
from .knobs import Knobs, describe_knobs
from .own_code import Code
from .residual import End, Final, HeadPlacement, Residual, Rotate, keep_stream, scale_source

WORDS = ("name", "summary", "paper", "equations", "deviations", "neutral")  # each variant documents itself with these
NO_ATTENTION, NO_MLP = "no layer keeps its attention", "no layer keeps its MLP"  # why their knobs are idle

Part = Literal["attention", "mlp", "block"]
Site = Literal["attention", "mlp"]
Use = Literal["bidirectional", "cross"]  # of an attention, besides causal self-attention
Size = Annotated[int, Field(ge=1, le=1_000_000)]  # a larger number is more likely a typing error than a model


@dataclass(frozen=True)
class Neutral:
    """The point at which a variant computes exactly what the baseline of its axis computes.

    `knobs` are the variant's; parameters with a name part in `zeros` (`ones`) are set to 0 (1). Where the variant has
    several query (key) heads per head of the baseline, the baseline gets every `query_every`-th (`key_every`-th).
    """

    knobs: Mapping[str, Any] = field(default_factory=dict)
    zeros: tuple[str, ...] = ()
    ones: tuple[str, ...] = ()
    query_every: int = 1
    key_every: int = 1


class Variant(Knobs, ABC):
    """One value of an axis. Its fields are its knobs; its class variables say what it is and where it comes from.

    Raise `version` whenever the mathematics change, so that results of different mathematics never share an identity.
    A variant from a user's file has the hash of its code instead.
    """

    extra_keys: ClassVar[tuple[str, ...]] = ("name",)
    name: ClassVar[str]
    version: ClassVar[int | str] = 1
    summary: ClassVar[str]
    paper: ClassVar[str]
    equations: ClassVar[str]
    deviations: ClassVar[str]
    neutral: ClassVar[str]
    neutral_point: ClassVar[Neutral | None] = None
    code: ClassVar[Code | None] = None  # of a variant from a user's file
    can_be_stacked: ClassVar[bool] = True  # whether `torch.func.vmap` runs it for several models at once

    @model_validator(mode="before")
    @classmethod
    def _complete_groups(cls, data: Any) -> Any:
        """Complete a group of knobs with this variant's defaults, which may differ from those of the group's class."""
        if not isinstance(data, Mapping):
            return data
        groups = {name: f.default for name, f in cls.model_fields.items() if isinstance(f.default, Knobs)}
        partial = {name: group for name, group in groups.items() if isinstance(data.get(name), Mapping)}
        return {**data, **{name: {**group.model_dump(), **data[name]} for name, group in partial.items()}}

    @property
    def has_penalty(self) -> bool:
        """Whether its modules add terms to the training loss."""
        return False

    def resolve(self, config: Architecture) -> Self:
        """Return this variant with every default that depends on the model's sizes filled in."""
        return self

    def check(self, config: Architecture) -> None:
        """Raise ConfigError, with a path from the model's mapping, when the model cannot be built."""

    def idle(self, config: Architecture) -> dict[str, str]:
        """Return the knobs that change nothing in this model: dotted name to the reason.

        The reason is empty where another knob fixes this one, so that there is nothing to report. The remaining knobs
        must be legal when all of these have their defaults.
        """
        return {}

    def notices(self, config: Architecture) -> tuple[str, ...]:
        """Return facts about this variant in this model that the reader of a result should know."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, **self.model_dump(mode="json")}

    @classmethod
    def describe(cls) -> dict[str, Any]:
        """Return the documentation of this variant as plain data."""
        words = {word: getattr(cls, word) for word in (*WORDS[1:], "version")}
        return {**words, "knobs": describe_knobs(cls)}


class Attention(Variant, ABC):
    """A kind of self-attention: causal, and where it can, also in both directions and across to another sequence."""

    def refuse(self, use: Use) -> str | None:
        """Return why this attention cannot be used without a causal mask, or across; None if it can."""
        return f"{self.name} is written for causal self-attention"

    @property
    def prunes_cache(self) -> bool:
        """Whether it can decode with a budget of tokens."""
        return False

    @abstractmethod
    def default_qk_width(self, config: Architecture) -> int:
        """Width of one query or key head that follows from the model's sizes only."""

    @abstractmethod
    def qk_width(self, config: Architecture) -> int:
        """Width of one query or key head, which the positional encoding rotates."""

    @abstractmethod
    def query_features(self, config: Architecture) -> int:
        """Number of query features per token: heads times width."""

    @abstractmethod
    def num_params(self, config: Architecture) -> int:
        """Parameters of one layer, without those that the normalization adds."""

    @abstractmethod
    def flops_per_token(self, config: Architecture, context_length: int) -> int:
        """Forward matmul FLOPs of one layer per token, averaged over the positions of a causal context."""

    def model_params(self, config: Architecture) -> int:
        """Parameters of all layers, without those that the normalization adds."""
        return config.count_kept("attention") * self.num_params(config)

    def model_flops_per_token(self, config: Architecture, context_length: int) -> int:
        """Forward matmul FLOPs of all layers per token."""
        return config.count_kept("attention") * self.flops_per_token(config, context_length)

    def flops_across(self, config: Architecture, n_keys: int) -> tuple[int, int]:
        """Forward matmul FLOPs of one layer per query token and per key token, if each query sees all `n_keys` keys."""
        raise NotImplementedError(f"{self.name} states no cost without a causal mask")

    @abstractmethod
    def build(self, config: Architecture, layer: int) -> nn.Module:
        """Build the layer at 0-based depth `layer`: (x (b, t, d), context, cache or None) -> (b, t, d).

        With a cache, x holds the newest t tokens, which see all tokens before them. The context says whether the mask
        is causal, which keys are padding, and where keys and values come from.
        """


class Normalization(Variant, ABC):
    """Where the stream is normalized, with every scale, constraint and training default that belongs to it."""

    # facts that other components ask for
    @property
    def has_unit_stream(self) -> bool:
        """Whether the residual stream consists of unit vectors."""
        return False

    @property
    def has_unit_weights_in_forward(self) -> bool:
        """Whether the forward pass normalizes weights, with the gradient through it."""
        return False

    @property
    def has_unit_weights_after_step(self) -> bool:
        """Whether weights are projected to unit vectors before training and after each optimizer step."""
        return False

    @property
    def has_scale_free_writes(self) -> bool:
        """Whether multiplying a sub-layer's output by a positive constant changes nothing."""
        return False

    def base_std(self, d_model: int) -> float:
        """Standard deviation of initial weights."""
        return 0.02

    def recipe(self) -> dict[str, float]:
        """Training defaults that belong to this normalization."""
        return {"weight_decay": 0.1, "warmup_fraction": 0.1}

    @property
    def projection(self) -> Callable[[Tensor, int], Tensor] | None:
        """Function that normalizes weights along a dimension, if it is another than `numerics.unit`."""
        return None

    def penalize_embedding(self, weight_vd: Tensor) -> Tensor | None:
        """Return a term of the training loss for the vectors of the tokens, if there is one."""
        return None

    def at(self, depth: int) -> Self:
        """Return this normalization as the block at `depth` of its path has it."""
        return self

    @property
    def constrain(self) -> Callable[[Tensor], Tensor]:
        """Function that restores the constraint on the stream after streams were added or mixed."""
        return keep_stream

    @property
    def normalize_source(self) -> Callable[[Tensor], Tensor]:
        """Function that prepares the embedding for the embedding shortcut."""
        return scale_source

    # what it builds; None means that nothing happens there
    def build_input(self, config: Architecture) -> nn.Module | None:
        """Build the module between the embedding (b, t, d) and the first block."""
        return None

    @abstractmethod
    def build_residual(self, config: Architecture, site: Site) -> Residual: ...

    def build_query_key(self, config: Architecture, n_heads: int, width: int) -> HeadPlacement | None:
        """Build its own placement for queries of `n_heads` heads of `width` features."""
        return None

    def build_hidden_scale(self, config: Architecture, n_features: int) -> nn.Module | None:
        """Build the factor of an MLP's hidden features before the activation: () -> (n_features,), (1,) or ()."""
        return None

    @abstractmethod
    def build_final(self, config: Architecture) -> Final: ...

    def build_end(self, config: Architecture) -> nn.Module:
        """Build what ends a stack without a head, as an encoder's: (b, t, d) -> (b, t, d)."""
        return End(self.build_final(config))

    # what that costs
    @abstractmethod
    def num_residual_params(self, config: Architecture, site: Site) -> int:
        """Parameters that one sub-layer carries because of this normalization, its scales included."""

    @abstractmethod
    def num_model_params(self, config: Architecture) -> int:
        """Parameters that the model carries once: before the first block, after the last, on the logits."""

    def num_encoder_params(self, config: Architecture) -> int:
        """Parameters that an encoder carries once: before the first block and after the last, without logits."""
        return self.num_model_params(config)


class Mlp(Variant, ABC):
    """A two-matrix MLP around an activation."""

    @property
    def is_homogeneous(self) -> bool:
        """Whether a positive factor of the hidden features is a factor of the output."""
        return False

    @property
    def reads_d_ff(self) -> bool:
        """Whether the inner width changes anything."""
        return True

    def default_d_ff(self, d_model: int) -> int:
        """Inner width used when the model config leaves it open."""
        return 4 * d_model

    def gate_features(self, config: Architecture) -> int:
        """Number of the hidden features, the last ones, that are gates."""
        return 0

    def hidden_features(self, config: Architecture) -> int:
        """Outputs of the first matrix: d_ff, or more when it also makes gates."""
        return config.d_ff

    @abstractmethod
    def build(self, config: Architecture, layer: int) -> nn.Module:
        """Build the layer: (b, t, d) -> (b, t, d)."""

    def num_params(self, config: Architecture) -> int:
        """Parameters of one layer, without those that the normalization adds."""
        hidden = config.linear_params(config.d_model, self.hidden_features(config))
        return hidden + config.linear_params(config.d_ff, config.d_model)

    def flops_per_token(self, config: Architecture, context_length: int) -> int:
        """Forward matmul FLOPs of one layer, per token."""
        return 2 * config.d_model * (self.hidden_features(config) + config.d_ff)

    def model_params(self, config: Architecture) -> int:
        """Parameters of all layers, without those that the normalization adds."""
        return config.count_kept("mlp") * self.num_params(config)

    def model_flops_per_token(self, config: Architecture, context_length: int) -> int:
        """Forward matmul FLOPs of all layers per token."""
        return config.count_kept("mlp") * self.flops_per_token(config, context_length)


def keep_heads(x_bthk: Tensor, tables: Tables) -> Tensor:  # noqa: ARG001
    """Leave queries and keys as they are, for encodings that do not rotate."""
    return x_bthk


class Position(Variant, ABC):
    """A positional encoding."""

    @property
    def rotate(self) -> Rotate:
        """Function applied to queries and keys (b, t, h, k) in every layer."""
        return keep_heads

    def num_params(self, config: Architecture) -> int:
        """Parameters of the whole model's positional encoding."""
        return 0

    @abstractmethod
    def build(self, config: Architecture) -> nn.Module:
        """Build the encoding: (token vectors (b, t, d), first position) -> (b, t, d) and the tables of `rotate`."""


class Linear(Variant, ABC):
    """A kind of linear layer for every hidden matrix of attention and MLP; embedding and head stay dense."""

    @property
    def has_input_norm(self) -> bool:
        """Whether a layer normalizes its own input, so that blocks omit their norms before it."""
        return False

    @abstractmethod
    def build(self, config: Architecture, shape: tuple[int, int], axis: int, std: float) -> nn.Module:
        """Build a layer whose weight has the (out, in) `shape` and starts from N(0, std^2).

        It maps (x (..., in), gain of the outputs or None) to (..., out).
        """


class Topology(Variant, ABC):
    """How blocks are joined."""

    @abstractmethod
    def paths(self, n_layers: int) -> list[range]:
        """Layer numbers of each path, in order; together 0 to n_layers - 1."""

    def stages(self, config: Architecture) -> list[Architecture]:
        """Return the model as each stage of blocks sees it, if the blocks differ in width; otherwise nothing."""
        return []

    def end(self, config: Architecture) -> Architecture:
        """Return the model as the head sees it."""
        return config

    def num_params(self, config: Architecture) -> int:
        """Parameters outside the blocks."""
        return 0

    def flops_per_token(self, config: Architecture) -> int:
        """Forward matmul FLOPs per token outside the blocks."""
        return 0

    @abstractmethod
    def build(self, config: Architecture) -> Any:
        """Build the `Stack` (blocks.py) of all blocks."""


class Architecture(Knobs):
    """Sizes, options and one variant of each axis. `ModelConfig` parses and checks it."""

    d_model: Size = Field(description="width of the residual stream")
    n_layers: int = Field(ge=1, le=10_000, description="number of blocks")
    n_heads: Size = Field(description="value heads, each of width d_model / n_heads")
    vocab_size: Size = Field(description="tokens in the vocabulary")
    context_length: Size = Field(description="tokens in a training sequence")
    attention: SerializeAsAny[Attention]
    normalization: SerializeAsAny[Normalization]
    mlp: SerializeAsAny[Mlp]
    position: SerializeAsAny[Position]
    linear: SerializeAsAny[Linear]
    topology: SerializeAsAny[Topology]
    d_ff: Size
    tie_embeddings: bool = Field(default=False, description="use the embedding matrix as the head's matrix")
    logit_softcap: float | None = Field(default=None, gt=0.0, le=1e12, description="final logits <- c tanh(logits / c)")
    value_residual: Literal["none", "half", "learned"] = Field(
        default="none", description="mix the first layer's values into every layer's: by half, or by a learned share"
    )
    embedding_shortcut: bool = Field(
        default=False, description="before each block h <- a h + b h_0, with a and b learned from 1 and 0"
    )
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0, description="on the embedding and on sub-layer outputs")
    dropped: tuple[str, ...] = Field(
        default=(), strict=False, description="sub-layers to leave out: attention/LAYER or mlp/LAYER, layers from 0"
    )
    bias: bool = Field(default=False, description="add biases to hidden linear layers and layer norms")
    weight_dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="storage of hidden matrices; bfloat16 keeps no float32 master copy"
    )

    def at(self, depth: int) -> Self:
        """Return the model as the block at `depth` of its path sees it."""
        normalization = self.normalization.at(depth)
        return self if normalization is self.normalization else self.model_copy(update={"normalization": normalization})

    @property
    def is_causal(self) -> bool:
        """Whether a token sees only itself and earlier tokens."""
        return True

    @property
    def n_writes(self) -> int:
        """Number of sub-layers that write to the residual stream; initial weights of writers shrink by its root."""
        return 2 * self.n_layers

    @property
    def head_dim(self) -> int:
        """Width of a value head."""
        return self.d_model // self.n_heads

    @property
    def base_std(self) -> float:
        """Standard deviation of initial weights."""
        return self.normalization.base_std(self.d_model)

    def linear_params(self, n_in: int, n_out: int) -> int:
        """Parameters of one hidden linear layer."""
        return n_in * n_out + (n_out if self.bias else 0)

    def keeps(self, part: Part, layer: int) -> bool:
        """Whether block `layer` still has its attention or MLP; a block is kept while it has either."""
        if part == "block":
            return self.keeps("attention", layer) or self.keeps("mlp", layer)
        return f"{part}/{layer}" not in self.dropped

    def kept_depths(self, part: Part) -> list[int]:
        """Depths in their paths of the layers that keep that part."""
        paths = self.topology.paths(self.n_layers)
        return [depth for path in paths for depth, layer in enumerate(path) if self.keeps(part, layer)]

    def count_kept(self, part: Part) -> int:
        """Number of layers that keep that part."""
        return sum(self.keeps(part, layer) for layer in range(self.n_layers))
