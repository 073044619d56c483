"""Parameters: how each starts, what it is for an optimizer, and which dimension runs along d_model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Role = Literal["matrix", "embedding", "head", "gate", "vector"]


@dataclass(frozen=True)
class Spec:
    """A parameter starts as mean + std * N(0, 1), with one mean, or one per entry of a vector.

    `role`: "matrix" is a hidden matrix (Muon's), "embedding" and "head" touch the vocabulary or the positions, "gate"
    is a small projection to per-head controls, "vector" is the rest. `axis` is the dimension that runs along d_model
    for the matrices whose vectors nGPT keeps on the unit sphere; None exempts the parameter.
    """

    role: Role
    std: float = 0.0
    mean: float | tuple[float, ...] = 0.0
    axis: int | None = None


class SpecModule(nn.Module):
    """A module that declares a Spec for each of its own parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.specs: dict[str, Spec] = {}

    def declare(
        self, name: str, shape: tuple[int, ...], spec: Spec, dtype: torch.dtype = torch.float32
    ) -> nn.Parameter:
        """Register an uninitialized parameter under `name`; `initialize` fills it."""
        parameter = nn.Parameter(torch.empty(shape, dtype=dtype))
        self.specs[name] = spec
        self.register_parameter(name, parameter)
        return parameter

    def diagnostics(self) -> dict[str, Tensor]:
        """Return scalars worth logging, by short name; `collect_diagnostics` adds the layer."""
        return {}


def walk_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, Spec]]:
    """Yield (full name, parameter, spec) of each parameter once, in the order of `named_parameters`."""
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not isinstance(module, SpecModule):
                raise TypeError(f"{prefix}.{name} belongs to {type(module).__name__}, which is not a SpecModule")
            yield (f"{prefix}.{name}" if prefix else name), parameter, module.specs[name]


def collect_diagnostics(model: nn.Module) -> dict[str, Tensor]:
    """Collect the scalars of all modules: "name/layer" inside blocks, "name" outside."""
    found: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        if isinstance(module, SpecModule):
            layer = path.split(".")[2:3] if path.startswith("stack.blocks.") else []
            found.update({"/".join([name, *layer]): value for name, value in module.diagnostics().items()})
    return found


@torch.no_grad()
def initialize(model: nn.Module, seed: int) -> None:
    """Fill every parameter from its own random stream, keyed by (seed, parameter name).

    The draw happens on the CPU in float32, whatever the device and dtype. Parameters of equal name and shape therefore
    start equal in every arm of a study, on every machine, whatever other parameters the arm has.
    """
    found = [item for item in walk_parameters(model) if not item[1].is_meta]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # torch draws each parameter on a single thread
        for (_, parameter, _), start in zip(found, pool.map(lambda item: _draw(seed, *item), found), strict=True):
            parameter.copy_(start)


def _draw(seed: int, name: str, parameter: nn.Parameter, spec: Spec) -> Tensor:
    start = torch.tensor(spec.mean).expand(parameter.shape)
    if spec.std == 0.0:
        return start
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(parameter.shape, generator=generator).mul_(spec.std).add_(start)
