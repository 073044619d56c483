"""The model inside torch's wrappers, and its weights under their plain names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .config import ModelConfig
from .errors import ConfigError
from .gpt import GPT, HeadedModel
from .kinds import build_model

M = TypeVar("M", bound=HeadedModel)
COMPILED = "_orig_mod"  # torch.compile keeps the module there; importing the wrapper's class takes seconds
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
INNER_WRAPPERS = (COMPILED, "_checkpoint_wrapped_module")  # these wrap a part of the model and leave it unchanged


def unwrap(model: nn.Module) -> GPT:
    """Return the GPT inside a compiled, distributed or averaged model, in any nesting.

    Raises ConfigError for any other module, and for a GPT on the meta device, whose weights have no values.
    """
    return unwrap_kind(model, GPT)


def unwrap_kind(model: nn.Module, kind: type[M]) -> M:
    """Do the same for a model of another kind."""
    found: object = model
    while not isinstance(found, kind):
        inner = found.module if isinstance(found, WRAPPERS) else getattr(found, "_modules", {}).get(COMPILED)
        if inner is None:
            inside = "" if found is model else f" around {type(found).__name__}"
            name = GPT.__name__ if kind is HeadedModel else kind.__name__
            legal = [name, f"torch.compile({name})", *(f"{wrapper.__name__}({name})" for wrapper in WRAPPERS)]
            raise ConfigError("model", f"expected a {name}, got {type(model).__name__}{inside}", legal)
        found = inner
    if any(parameter.is_meta for parameter in found.parameters()):
        raise ConfigError("model", "its weights are on the meta device and have no values")
    return found


def plain_weights(model: HeadedModel) -> dict[str, Tensor]:
    """Return the weights under the names that a model of this configuration has.

    Raises ConfigError, naming the first weight that differs, if a part of the model was replaced or sharded.
    """
    weights = {}
    for wrapped_name, value in model.state_dict().items():
        name = ".".join(part for part in wrapped_name.split(".") if part not in INNER_WRAPPERS)
        if type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
            raise ConfigError(name, f"is a {type(value).__name__}, not a whole dense tensor; gather the weights first")
        weights[name] = value
    check_shapes(model.config, {name: value.shape for name, value in weights.items()}, "the model to save")
    return weights


def check_shapes(config: ModelConfig, found: Mapping[str, Sequence[int]], place: object) -> None:
    """Raise ConfigError, naming the first weight that differs, unless `found` are the shapes of the config's model.

    Allocates no memory, so the configuration may come from an untrusted file.
    """
    n_found, n_wanted = sum(map(math.prod, found.values())), config.num_params()
    sizes = f"; config.json describes {_describe_size(n_wanted)}, the weights are {_describe_size(n_found)}"
    if config.count_kept("block") > len(found):  # every block has at least one tensor
        raise ConfigError("n_layers", f"{place} holds {len(found)} tensors for {config.n_layers} layers{sizes}")
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in build_model(config).state_dict().items()}
    for name in sorted(wanted.keys() | found.keys()):
        shapes = [list(shapes[name]) if name in shapes else "nothing" for shapes in (found, wanted)]
        if shapes[0] != shapes[1]:
            message = f"{place} holds {shapes[0]} where the model has {shapes[1]}"
            raise ConfigError(name, message + (sizes if n_found != n_wanted else ""))


def _describe_size(n_params: int) -> str:
    n_bytes = 4.0 * n_params
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_params:,} parameters ({n_bytes:.3g} {unit} in float32)"
        n_bytes /= 1000
    return f"{n_params:,} parameters ({n_bytes:,.3g} TB in float32)"
