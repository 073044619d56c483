"""ParallelGPT: two half-deep stacks side by side."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from ..blocks import Stack
from ..cache import Cache
from ..context import Context
from ..contracts import Architecture, Topology
from ..errors import ConfigError
from ..layers import READS, StreamMatrix, multiply
from ..parameters import Spec

MIX_START = 0.5  # before the sigmoid, as in the authors' code; the first path starts with weight 0.62


class Entry(StreamMatrix):
    """The linear layer, with a bias, between the embedding and a path."""

    def __init__(self, config: Architecture) -> None:
        super().__init__(config, (config.d_model, config.d_model), "matrix", READS, config.base_std)
        self.bias = self.declare("bias", (config.d_model,), Spec("vector"))

    def forward(self, h_btd: Tensor) -> Tensor:
        return multiply(h_btd, self.read_weight(), self.bias)


class ParallelStack(Stack):
    def __init__(self, config: Architecture, inference: str) -> None:
        super().__init__(config)
        self.layers = config.topology.paths(config.n_layers)
        self.entries = nn.ModuleList(Entry(config) for _ in self.layers)
        self.mix = self.declare("mix", (1,), Spec("vector", mean=MIX_START))
        self.constrain = config.normalization.constrain
        self.runs_only_heavier = inference == "heavier"

    def forward(self, h_btd: Tensor, context: Context, cache: Cache | None = None) -> Tensor:
        if self.runs_only_heavier and not self.training:
            return self.follow(0 if self.mix.item() >= 0 else 1, h_btd, context, cache)
        first_btd, second_btd = (self.follow(path, h_btd, context, cache) for path in (0, 1))
        weight = self.mix.sigmoid()
        return self.constrain(weight * first_btd + (1 - weight) * second_btd)

    def follow(self, path: int, h_btd: Tensor, context: Context, cache: Cache | None) -> Tensor:
        return self.run(self.layers[path], self.constrain(self.entries[path](h_btd)), context, cache)

    def diagnostics(self) -> dict[str, Tensor]:
        return {"path_weight": self.mix.sigmoid()}


class ParallelGPT(Topology):
    """Two stacks of half the blocks on two linear images of the embedding, mixed by a learned weight."""

    name: ClassVar[str] = "parallel_gpt"
    can_be_stacked: ClassVar[bool] = False
    summary: ClassVar[str] = "two half-deep stacks side by side, mixed by a learned weight"
    paper: ClassVar[str] = "ParallelGPT, arXiv 2404.14462v4, SkAndMl/gpt-variations (pgpt)"
    equations: ClassVar[str] = (
        "x_i = W_i h_0 + b_i; h = s(w) f_1(x_1) + (1 - s(w)) f_2(x_2), s the sigmoid, f_i the stacks"
    )
    deviations: ClassVar[str] = (
        "with inference `heavier`, the final norm stays, which the authors' code omits; inside nGPT x_i and h are "
        "normalized; the embedding shortcut mixes in the embedding itself; value residuals stay within a path; "
        "W_i starts like every hidden matrix and b_i at 0; matrices that write to the stream start smaller by "
        "sqrt(2 n_layers), with the layers of both paths; apart from w, the authors' initial values were not compared"
    )
    neutral: ClassVar[str] = "None: each path has half the depth."

    inference: Literal["both", "heavier"] = Field(
        default="both", description="paths to run in eval mode: both, or only the one with the larger weight (pgpt-1)"
    )

    def check(self, config: Architecture) -> None:
        if config.n_layers % 2:
            raise ConfigError("n_layers", f"parallel_gpt needs an even number of blocks, got {config.n_layers}")

    def paths(self, n_layers: int) -> list[range]:
        return [range(n_layers // 2), range(n_layers // 2, n_layers)]

    def num_params(self, config: Architecture) -> int:
        return 2 * config.d_model * (config.d_model + 1) + 1

    def flops_per_token(self, config: Architecture) -> int:
        return 4 * config.d_model**2

    def build(self, config: Architecture) -> Stack:
        return ParallelStack(config, self.inference)
