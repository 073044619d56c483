"""Modules that declare with each parameter how it starts, what it is for an optimizer, and where d_model lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Role = Literal["matrix", "embedding", "head", "gate", "vector"]


@dataclass(frozen=True)
class Spec:
    """A parameter starts as mean + std * N(0, 1), with one mean, or one for each entry of a vector.

    `role`: "matrix" is a hidden matrix (Muon's), "embedding" and "head" touch the vocabulary or the positions, "gate"
    is a small projection to per-head controls, "vector" is the rest. `axis` is the dimension that runs along d_model
    for the matrices whose vectors nGPT keeps on the unit sphere; None exempts the parameter.
    """

    role: Role
    std: float = 0.0
    mean: float | tuple[float, ...] = 0.0
    axis: int | None = None


class Declared(nn.Module):
    """An abstract module whose own parameters all carry a Spec."""

    def __init__(self) -> None:
        super().__init__()
        self.specs: dict[str, Spec] = {}

    def declare(
        self, name: str, shape: tuple[int, ...], spec: Spec, dtype: torch.dtype = torch.float32
    ) -> nn.Parameter:
        """Register an uninitialised parameter under `name`; model.initialize fills it."""
        parameter = nn.Parameter(torch.empty(shape, dtype=dtype))
        self.specs[name] = spec
        self.register_parameter(name, parameter)
        return parameter

    def diagnostics(self) -> dict[str, Tensor]:
        """Scalars worth logging, by short name; the block adds the layer."""
        return {}


def walk_declared(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Spec]]:
    """(full name, parameter, spec) of every parameter, each once, in the order of `named_parameters`."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not isinstance(module, Declared):
                raise TypeError(f"{prefix}.{name} belongs to {type(module).__name__}, which is not a Declared module")
            yield (f"{prefix}.{name}" if prefix else name), parameter, module.specs[name]
