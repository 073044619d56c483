"""Initial values: each parameter from its own generator, so arms that share a parameter share its start."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from .declared import walk_declared


@torch.no_grad()
def initialize(model: nn.Module, seed: int) -> None:
    """Fill every parameter from a stream keyed by (seed, parameter name).

    The draw happens on the CPU in float32 whatever the device and dtype, so equally named parameters of equal shape
    start equal in every arm of a study, on every machine, whatever other parameters the arm has.
    """
    for name, parameter, spec in walk_declared(model):
        if parameter.is_meta:
            continue
        start = torch.tensor(spec.mean).expand(parameter.shape)
        if spec.std > 0.0:
            generator = torch.Generator().manual_seed(_derive_seed(seed, name))
            start = torch.randn(parameter.shape, generator=generator).mul_(spec.std).add_(start)
        parameter.copy_(start)


def _derive_seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
