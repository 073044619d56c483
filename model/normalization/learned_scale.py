"""nGPT's learned scales: Adam sees raw values of one size, the forward pass uses values of another."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from ..contracts import Architecture
from ..knobs import Knobs
from ..parameters import Spec, SpecModule

Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Symbol = Literal["1/n_layers", "1/sqrt(d_model)", "1/d_model", "sqrt(d_model)"]


PerLayer = Annotated[tuple[Number | Symbol, ...], Field(strict=False, min_length=1, max_length=10_000)]


class Scale(Knobs):
    """Parametrization of one scale (arXiv 2410.01131, section 2.5): value = raw * init / scale; raw starts at `scale`.

    `scale` therefore sets only the effective learning rate: Adam's relative step is proportional to lr / scale.
    """

    mode: Literal["vector", "scalar", "fixed"] = Field(
        default="vector", description="one value per feature, one shared value, or a constant"
    )
    init: Number | Symbol | PerLayer = Field(
        default=1.0, description="initial value, or a list with one per layer; the constant value when fixed"
    )
    scale: Number | Symbol | PerLayer = Field(
        default="1/sqrt(d_model)", description="initial raw value, or a list with one per layer; must not be 0"
    )

    def resolve(self, config: Architecture) -> Self:
        """Return the same scale with numbers in place of symbols."""
        return self.model_copy(update={name: _resolve(getattr(self, name), config) for name in ("init", "scale")})

    @property
    def differs_by_layer(self) -> bool:
        return isinstance(self.init, tuple) or isinstance(self.scale, tuple)

    def values(self, name: Literal["init", "scale"]) -> tuple[float | Symbol, ...]:
        """Return the values of one knob: one, or one per layer."""
        value: Any = getattr(self, name)
        return value if isinstance(value, tuple) else (value,)

    def at(self, depth: int) -> Self:
        """Return the scale of the layer at `depth` of its path."""
        own = {name: values[depth] for name in ("init", "scale") if isinstance(values := getattr(self, name), tuple)}
        return self.model_copy(update=own)

    def num_params(self, n_features: int) -> int:
        return {"vector": n_features, "scalar": 1, "fixed": 0}[self.mode]


class HiddenScale(Scale):
    """A scale of hidden features, whose raw value starts at 1."""

    scale: Number | Symbol | PerLayer = Field(
        default=1.0, description="initial raw value, or a list with one per layer; must not be 0"
    )


def _resolve(value: Any, config: Architecture) -> float | tuple[float, ...]:
    if isinstance(value, tuple):
        return tuple(_evaluate(item, config) for item in value)
    return _evaluate(value, config)


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
        (init,), (scale,) = (map(float, knobs.resolve(config).values(name)) for name in ("init", "scale"))
        n = knobs.num_params(n_features)
        self.raw = self.declare("raw", (n,), Spec("vector", mean=scale)) if n else None
        # a float64 tensor, not a number: exact in every precision, and all initial values share one compiled graph
        factor = torch.tensor(init / scale if n else init, dtype=torch.float64)
        self.register_buffer("factor", factor, persistent=False)

    factor: Tensor

    def forward(self) -> Tensor:
        return self.factor if self.raw is None else self.raw * self.factor
