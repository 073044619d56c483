"""A user's module inside a model: built from its own seed, and described to optimizers and to nGPT."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
from torch import nn

from .parameters import Role, Spec, SpecModule

Make = Callable[[], nn.Module]


class Foreign(SpecModule):
    """Holds the user's module. Its own initialization stays, but every model draws it from (seed, place)."""

    holds_foreign: ClassVar[bool] = True

    def __init__(self, make: Make, inner_specs: Mapping[str, Spec]) -> None:
        super().__init__()
        self.make = make
        self.module = construct(make)
        self.inner_specs = {f"module.{name}": spec for name, spec in inner_specs.items()}

    def spec_of(self, name: str) -> Spec:
        """Return the spec of a parameter by its name inside this module."""
        return self.inner_specs.get(name, Spec("vector", starts_itself=True))

    @torch.no_grad()
    def restart(self, seed: int, name: str) -> None:
        """Give the module the values of a fresh one, drawn on the CPU from the seed and its place in the model."""
        if any(value.is_meta for value in self.module.state_dict().values()):
            return
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        with torch.device("cpu"):
            fresh = construct(self.make, int.from_bytes(digest[:8], "little") >> 1)
        for old, new in zip(_tensors(self.module), _tensors(fresh), strict=True):
            old.copy_(new)


def construct(make: Make, seed: int = 0) -> nn.Module:
    """Build a module on the current device, without a trace in the global random numbers.

    A module that cannot be built on the meta device is built on the CPU and moved.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if torch.get_default_device().type != "meta":
            return make()
        try:
            return make()
        except (Exception, SystemExit):  # noqa: BLE001 - a constructor that needs values; the CPU repeats its own errors
            with torch.device("cpu"):
                return make().to("meta")


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def describe_parameters(
    module: nn.Module,
    d_model: int,
    writers: frozenset[str],
    unit_axes: Mapping[str, int | None],
    roles: Mapping[str, Role],
) -> dict[str, Spec]:
    """Return the spec of each parameter.

    Two-dimensional parameters are matrices, except those of an embedding. The dimension of size d_model is the one that
    nGPT normalizes. A square linear layer reads d_model (axis 1) unless its output is the module's, so that it writes
    it (axis 0, in `writers`). `unit_axes` and `roles`, by name, come first.
    """
    linear = {f"{name}.weight".lstrip(".") for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    tables = {f"{name}.weight".lstrip(".") for name, part in module.named_modules() if isinstance(part, nn.Embedding)}
    specs = {}
    for name, parameter in module.named_parameters():
        is_matrix = parameter.dim() == 2 and name not in tables
        axis: int | None = None
        if is_matrix:
            fitting = [index for index in (1, 0) if parameter.shape[index] == d_model]
            axis = fitting[0] if fitting else None
            if len(fitting) == 2 and name in linear:
                axis = 0 if name in writers else 1
        role: Role = "matrix" if is_matrix else "embedding" if name in tables else "vector"
        specs[name] = Spec(roles.get(name, role), axis=unit_axes.get(name, axis), starts_itself=True)
    return specs


def has_square(module: nn.Module, d_model: int) -> bool:
    """Whether a matrix has d_model rows and columns."""
    return any(tuple(parameter.shape) == (d_model, d_model) for parameter in module.parameters())


def find_ambiguous(module: nn.Module, d_model: int, unit_axes: Mapping[str, int | None]) -> list[str]:
    """List square parameters whose direction is unknown: they could read d_model along either dimension."""
    linear = {f"{name}.weight".lstrip(".") for name, part in module.named_modules() if isinstance(part, nn.Linear)}
    return [
        name
        for name, parameter in module.named_parameters()
        if tuple(parameter.shape) == (d_model, d_model) and name not in linear and name not in unit_axes
    ]


def find_bad_names(module: nn.Module, named: Mapping[str, object]) -> list[str]:
    """List names of an override that no parameter has."""
    known = {name for name, _ in module.named_parameters()}
    return [name for name in named if name not in known]
