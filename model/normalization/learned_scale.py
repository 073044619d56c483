"""nGPT's learned scales: Adam sees raw values of one size, the forward pass uses values of another."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from ..contracts import Architecture
from ..knobs import Knobs
from ..parameters import Spec, SpecModule

Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Symbol = Literal["1/n_layers", "1/sqrt(d_model)", "1/d_model", "sqrt(d_model)"]


class Scale(Knobs):
    """Parametrization of one scale (arXiv 2410.01131, section 2.5): value = raw * init / scale; raw starts at `scale`.

    `scale` therefore sets only the effective learning rate: Adam's relative step is proportional to lr / scale.
    """

    mode: Literal["vector", "scalar", "fixed"] = Field(
        default="vector", description="one value per feature, one shared value, or a constant"
    )
    init: Number | Symbol = Field(default=1.0, description="initial value; the constant value when fixed")
    scale: Number | Symbol = Field(default="1/sqrt(d_model)", description="initial raw value; must not be 0")

    def resolve(self, config: Architecture) -> Scale:
        """Return the same scale with numbers in place of symbols."""
        return Scale(mode=self.mode, init=_evaluate(self.init, config), scale=_evaluate(self.scale, config))

    def num_params(self, n_features: int) -> int:
        return {"vector": n_features, "scalar": 1, "fixed": 0}[self.mode]


def _evaluate(value: float | Symbol, config: Architecture) -> float:
    match value:
        case "1/n_layers":
            return 1 / config.n_layers
        case "1/sqrt(d_model)":
            return 1 / math.sqrt(config.d_model)
        case "1/d_model":
            return 1 / config.d_model
        case "sqrt(d_model)":
            return math.sqrt(config.d_model)
        case number:
            return float(number)


class LearnedScale(SpecModule):
    """A scale as a module that returns its effective value: (n_features,), (1,) or a constant ()."""

    def __init__(self, knobs: Scale, n_features: int, config: Architecture) -> None:
        super().__init__()
        init, scale = _evaluate(knobs.init, config), _evaluate(knobs.scale, config)
        n = knobs.num_params(n_features)
        self.raw = self.declare("raw", (n,), Spec("vector", mean=scale)) if n else None
        # a float64 tensor, not a number: exact in every precision, and all initial values share one compiled graph
        factor = torch.tensor(init / scale if n else init, dtype=torch.float64)
        self.register_buffer("factor", factor, persistent=False)

    factor: Tensor

    def forward(self) -> Tensor:
        return self.factor if self.raw is None else self.raw * self.factor
