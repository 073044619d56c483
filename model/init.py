"""Initial values: each parameter from its own generator, so arms that share a parameter share its start."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from .declared import Spec, walk_declared


@torch.no_grad()
def initialize(model: nn.Module, seed: int) -> None:
    """Fill every parameter from a stream keyed by (seed, parameter name).

    The draw happens on the CPU in float32 whatever the device and dtype, so equally named parameters of equal shape
    start equal in every arm of a study, on every machine, whatever other parameters the arm has.
    """
    found = [item for item in walk_declared(model) if not item[1].is_meta]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # one draw is one thread's work, whatever its size
        for (_, parameter, _), start in zip(found, pool.map(lambda item: _draw(seed, *item), found), strict=True):
            parameter.copy_(start)


def _draw(seed: int, name: str, parameter: nn.Parameter, spec: Spec) -> Tensor:
    start = torch.tensor(spec.mean).expand(parameter.shape)
    if spec.std == 0.0:
        return start
    generator = torch.Generator().manual_seed(_derive_seed(seed, name))
    return torch.randn(parameter.shape, generator=generator).mul_(spec.std).add_(start)


def _derive_seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
