"""LinearGPT and ConvGPT: the stream gets narrower after every few blocks."""

from __future__ import annotations

import itertools
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from ..blocks import Block, Stack
from ..cache import Cache
from ..context import Context
from ..contracts import Architecture, Neutral, Topology, keep_heads
from ..errors import ConfigError
from ..layers import READS, StreamMatrix, multiply
from ..parameters import Spec
from .sequential import Sequential

FACTOR = 2  # by which each stage is narrower than the one before
NEVER = 10_000


class Narrowing(StreamMatrix):
    """The linear layer, with a bias, between two stages."""

    def __init__(self, config: Architecture) -> None:
        n_out = config.d_model // FACTOR
        super().__init__(config, (n_out, config.d_model), "matrix", READS, config.base_std)
        self.bias = self.declare("bias", (n_out,), Spec("vector"))

    def forward(self, h_btd: Tensor) -> Tensor:
        return multiply(h_btd, self.read_weight(), self.bias)


class NarrowingStack(Stack):
    def __init__(self, config: Architecture, stages: list[Architecture], n_narrowings: int) -> None:
        self.stages = stages
        super().__init__(config)
        self.narrowings = nn.ModuleList(Narrowing(stage) for stage in stages[:n_narrowings])
        rotates = config.position.rotate is not keep_heads
        self.positions = nn.ModuleList(stage.position.build(stage) for stage in stages[1:] if rotates)
        self.constrain = config.normalization.constrain

    def build_block(self, config: Architecture, layer: int, depth: int) -> Block:
        for stage in self.stages:
            if layer < stage.n_layers:
                # initial weights depend on the depth of the whole model
                return Block(stage.model_copy(update={"n_layers": config.n_layers}), layer, depth)
            layer -= stage.n_layers
        raise IndexError(layer)

    def forward(self, h_btd: Tensor, context: Context, cache: Cache | None = None) -> Tensor:
        first = 0
        for index, stage in enumerate(self.stages):
            if index and len(self.positions):  # heads are narrower, so their angles differ
                _, context.tables = self.positions[index - 1](h_btd, 0 if cache is None else cache.length)
            h_btd = self.run(range(first, first + stage.n_layers), h_btd, context, cache)
            first += stage.n_layers
            if index < len(self.narrowings):
                h_btd = self.constrain(self.narrowings[index](h_btd))
        return h_btd


class LinearGPT(Topology):
    """Blocks in stages. The stream, the heads and d_ff are half as wide in each next stage."""

    name: ClassVar[str] = "linear_gpt"
    can_be_stacked: ClassVar[bool] = False
    summary: ClassVar[str] = "a linear layer halves the stream after every two blocks"
    paper: ClassVar[str] = "arXiv 2404.14462v4, SkAndMl/gpt-variations (lgpt)"
    equations: ClassVar[str] = "h <- W h + b, W (d/2, d), after every blocks_per_stage blocks; n_heads stays"
    deviations: ClassVar[str] = (
        "d_ff gets narrower with the stream; inside nGPT h is normalized after each such layer; W starts like every "
        "hidden matrix and b at 0; the authors' initial values and biases were not compared"
    )
    neutral: ClassVar[str] = "more blocks per stage than there are blocks: the stream keeps its width."
    neutral_point: ClassVar[Neutral | None] = Neutral(knobs={"blocks_per_stage": NEVER})

    blocks_per_stage: int = Field(default=2, ge=1, le=NEVER, description="blocks before the stream gets narrower")

    def widths(self, config: Architecture) -> list[int]:
        """Return the widths of the stream, from the embedding's to the head's."""
        widths = [config.d_model]
        for _ in range(config.n_layers // self.blocks_per_stage):
            if widths[-1] % (FACTOR * config.n_heads):
                raise ConfigError(
                    "d_model",
                    f"{self.name} halves the stream every {self.blocks_per_stage} blocks; after {widths[-1]} features, "
                    f"{config.n_heads} heads of whole width would no longer fit",
                )
            widths.append(widths[-1] // FACTOR)
        return widths

    def check(self, config: Architecture) -> None:
        n_stages = len(self.widths(config))
        if n_stages == 1:
            return
        for setting, wrong in (
            ("value_residual", config.value_residual != "none"),
            ("embedding_shortcut", config.embedding_shortcut),
            ("tie_embeddings", config.tie_embeddings),
        ):
            if wrong:
                raise ConfigError(setting, f"{self.name} changes the width of the stream, so vectors cannot be shared")
        for stage in self.stages(config):
            for part in (stage.attention, stage.mlp, stage.position, stage.normalization.at(0)):
                try:
                    part.check(stage)
                except ConfigError as error:
                    message = f"{error.message} (in the stage of width {stage.d_model})"
                    raise ConfigError(error.path, message, error.legal) from None

    def paths(self, n_layers: int) -> list[range]:
        return [range(n_layers)]

    def stages(self, config: Architecture) -> list[Architecture]:
        found: list[Architecture] = []
        for index, width in enumerate(self.widths(config)):
            first = index * self.blocks_per_stage
            n_layers = min(self.blocks_per_stage, config.n_layers - first)
            if n_layers > 0:
                found.append(_narrow(config, width, range(first, first + n_layers)))
        return found

    def end(self, config: Architecture) -> Architecture:
        return config.model_copy(update={"d_model": self.widths(config)[-1]})

    def num_params(self, config: Architecture) -> int:
        widths = self.widths(config)
        return sum((wide + 1) * narrow for wide, narrow in itertools.pairwise(widths))

    def flops_per_token(self, config: Architecture) -> int:
        widths = self.widths(config)
        return sum(2 * wide * narrow for wide, narrow in itertools.pairwise(widths))

    def build(self, config: Architecture) -> Stack:
        return NarrowingStack(config, self.stages(config), len(self.widths(config)) - 1)


def _narrow(config: Architecture, d_model: int, layers: range) -> Architecture:
    """Return the model as the blocks of one stage see it: some of its layers, with a narrower stream."""
    kept = [name.split("/") for name in config.dropped if int(name.split("/")[1]) in layers]
    changes = {
        "d_model": d_model,
        "d_ff": max(config.d_ff * d_model // config.d_model, 1),
        "n_layers": len(layers),
        "dropped": tuple(f"{part}/{int(layer) - layers.start}" for part, layer in kept),
        "topology": Sequential(),
    }
    stage = config.model_copy(update=changes)
    attention = config.attention
    if getattr(attention, "qk_head_dim", None) == attention.default_qk_width(config):
        attention = attention.model_copy(update={"qk_head_dim": None}).resolve(stage)
    return stage.model_copy(update={"attention": attention})


class ConvGPT(LinearGPT):
    """A convolution of kernel 1 halves the stream after every few blocks."""

    name: ClassVar[str] = "conv_gpt"
    summary: ClassVar[str] = "a convolution of kernel 1 halves the stream: the same function as linear_gpt"
    paper: ClassVar[str] = "arXiv 2404.14462v4, SkAndMl/gpt-variations (cgpt)"
    equations: ClassVar[str] = "h_t <- W h_t + b, W (d/2, d, 1), after every blocks_per_stage blocks; n_heads stays"
    deviations: ClassVar[str] = (
        "a kernel of 1 is a linear layer, and is computed as one; the number of blocks before it, which the authors' "
        "config lacks, is 2; the rest is as in linear_gpt"
    )
    neutral: ClassVar[str] = "more blocks per stage than there are blocks: the stream keeps its width."
    neutral_point: ClassVar[Neutral | None] = Neutral(knobs={"blocks_per_stage": NEVER})
