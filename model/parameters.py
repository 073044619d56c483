"""Parameters: how each starts, what it is for an optimizer, and which dimension runs along d_model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .kernels.unit_vectors import project

Role = Literal["matrix", "embedding", "head", "gate", "vector"]


@dataclass(frozen=True)
class Spec:
    """A parameter starts as mean + std * N(0, 1), with one mean, or one per entry of a vector.

    `role`: "matrix" is a hidden matrix (Muon's), "embedding" and "head" touch the vocabulary or the positions, "gate"
    is a small projection to per-head controls, "vector" is the rest. `axis` is the dimension that runs along d_model
    for the matrices whose vectors nGPT keeps on the unit sphere; None exempts the parameter. A parameter of a user's
    module `starts_itself`.
    """

    role: Role
    std: float = 0.0
    mean: float | tuple[float, ...] = 0.0
    axis: int | None = None
    starts_itself: bool = False


class SpecModule(nn.Module):
    """A module that declares a Spec for each of its own parameters.

    If it `holds_foreign` modules, it also knows the specs of all parameters inside.
    """

    holds_foreign: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.specs: dict[str, Spec] = {}

    def declare(
        self, name: str, shape: tuple[int, ...], spec: Spec, dtype: torch.dtype = torch.float32
    ) -> nn.Parameter:
        """Register an uninitialized parameter under `name`; `SpecModel.initialize` fills it."""
        parameter = nn.Parameter(torch.empty(shape, dtype=dtype))
        self.specs[name] = spec
        self.register_parameter(name, parameter)
        return parameter

    def spec_of(self, name: str) -> Spec:
        """Return the spec of a parameter."""
        return self.specs[name]

    def restart(self, seed: int, name: str) -> None:
        """Initialize what no Spec describes. `name` is the name of the module in its model."""

    def diagnostics(self) -> dict[str, Tensor]:
        """Return scalars worth logging, by short name; the model adds the layer."""
        return {}

    def take_penalty(self) -> Tensor | None:
        """Return a term of the training loss that the last forward pass left, if there is one, and forget it.

        A penalty that is kept holds the graph of its step, and then no later step can be captured as a CUDA graph.
        """
        return None


class SpecModel(nn.Module):
    """A whole model, whose parameters all belong to SpecModules; `has_unit_weights` if nGPT projects them."""

    has_unit_weights: bool
    projection: Callable[[Tensor, int], Tensor] | None = None  # another than that to unit vectors

    def walk_parameters(self) -> Iterator[tuple[str, nn.Parameter, Spec]]:
        """Yield (full name, parameter, spec) of each parameter once, in the order of `named_parameters`."""
        holder_prefix, holder = "", None
        for prefix, module in self.named_modules():
            if holder is None or not prefix.startswith(f"{holder_prefix}."):
                holder_prefix, holder = prefix, module if getattr(module, "holds_foreign", False) else None
            for name, parameter in module.named_parameters(recurse=False):
                owner, full_name = holder or module, f"{prefix}.{name}" if prefix else name
                if not isinstance(owner, SpecModule):
                    raise TypeError(f"{full_name} belongs to {type(module).__name__}, which is not a SpecModule")
                inner_name = full_name.removeprefix(f"{holder_prefix}.") if holder else name
                yield full_name, parameter, owner.spec_of(inner_name)

    @torch.no_grad()
    def initialize(self, seed: int) -> None:
        """Fill every parameter from its own random stream, keyed by (seed, parameter name), and project to the sphere.

        The draw happens on the CPU in float32, whatever the device and dtype. Parameters of equal name and shape
        therefore start equal in every arm of a study, on every machine, whatever other parameters the arm has.
        """
        found = [item for item in self.walk_parameters() if not (item[1].is_meta or item[2].starts_itself)]
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # torch draws each parameter on a single thread
            starts = pool.map(lambda item: _draw(seed, *item), found)
            for (_, parameter, _), start in zip(found, starts, strict=True):
                parameter.copy_(start)
        for name, module in self.named_modules():
            if isinstance(module, SpecModule):
                module.restart(seed, name)
        self.post_step()

    def unit_axes(self) -> dict[Tensor, int]:
        """The weights whose vectors nGPT keeps on the unit sphere after each step, and the dimension of the vectors."""
        return {} if self.projection is not None else self.projected_axes()

    def projected_axes(self) -> dict[Tensor, int]:
        """The same, also if the weights are projected to something else, for which optimizers have no kernel."""
        if not self.has_unit_weights:
            return {}
        return {parameter: spec.axis for _, parameter, spec in self.walk_parameters() if spec.axis is not None}

    @torch.no_grad()
    def post_step(self, unit: AbstractSet[Tensor] = frozenset()) -> None:
        """Project weights back to the unit sphere where nGPT asks for it. Call it after every optimizer step.

        Weights in `unit` have unit vectors already; weights on the meta device have no values.
        """
        for weight, axis in self.projected_axes().items():
            if self.projection is not None and not weight.is_meta:
                weight.copy_(self.projection(weight, axis))
            elif weight not in unit and not weight.is_meta:
                project(weight, axis)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return AdamW's groups: parameters of two or more dimensions decay, the others do not."""
        decayed = [parameter for parameter in self.parameters() if parameter.dim() >= 2]
        rest = [parameter for parameter in self.parameters() if parameter.dim() < 2]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]

    def parameter_roles(self) -> dict[str, Role]:
        """Map each parameter to its role for an optimizer: matrix (hidden, Muon's), embedding, head, gate or vector."""
        return {name: spec.role for name, _, spec in self.walk_parameters()}

    @torch.no_grad()
    def diagnostics(self) -> dict[str, float]:
        """Return the scalars of all modules, in one transfer from the device."""
        found = self.collect_diagnostics()
        if not found:
            return {}
        values = torch.stack([value.reshape(()).to(torch.float64) for value in found.values()]).tolist()
        return dict(zip(found, values, strict=True))

    @classmethod
    def diagnostic_names(cls, config: Any) -> tuple[str, ...]:
        """Return the names that `diagnostics` returns for a model, without memory for its weights."""
        with torch.device("meta"), torch.no_grad():
            return tuple(cls(config).collect_diagnostics())

    def collect_diagnostics(self) -> dict[str, Tensor]:
        """Return the scalars of all modules as tensors: "name/layer" inside blocks, "name" outside."""
        found: dict[str, Tensor] = {}
        for path, module in self.named_modules():
            if isinstance(module, SpecModule):
                layer = path.split(".")[2:3] if path.startswith("stack.blocks.") else []
                found.update({"/".join([name, *layer]): value for name, value in module.diagnostics().items()})
        return found


def _draw(seed: int, name: str, parameter: nn.Parameter, spec: Spec) -> Tensor:
    start = torch.tensor(spec.mean).expand(parameter.shape)
    if spec.std == 0.0:
        return start
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(parameter.shape, generator=generator).mul_(spec.std).add_(start)
