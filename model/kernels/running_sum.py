"""Running sums by torch's own kernel, also inside compiled blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..numerics import upcast

BLOCK = 128  # numbers that a matrix product adds up; the sums of blocks are added up in the same way


@torch.library.custom_op("ablate::running_sum", mutates_args=())
def running_sum(x: Tensor, dim: int) -> Tensor:
    """Compute x.cumsum(dim), as an operator that is opaque to torch.compile.

    On a GPU the compiler's own scan of more than 128 entries fails when its input is a broadcast
    (github.com/pytorch/pytorch/issues/180221).
    """
    if x.is_cuda and torch.are_deterministic_algorithms_enabled():  # torch's own kernel depends on the timing of blocks
        return sum_in_blocks(x, dim)
    return x.contiguous().cumsum(dim)


def sum_in_blocks(x: Tensor, dim: int) -> Tensor:
    """Compute x.cumsum(dim) by products with triangular matrices, which always add up in the same order."""
    n = x.shape[dim]
    with torch.autocast(x.device.type, enabled=False):
        blocks = F.pad(upcast(x).transpose(dim, -1), (0, -n % BLOCK))
        blocks = blocks.reshape(*blocks.shape[:-1], -1, BLOCK)
        within = blocks @ blocks.new_ones(BLOCK, BLOCK).triu()
        totals = within[..., -1]
        before = totals @ totals.new_ones(2 * totals.shape[-1:]).triu(1)
        summed: Tensor = (within + before[..., None]).flatten(-2)[..., :n].transpose(dim, -1)
    return summed.to(x.dtype).contiguous()


@running_sum.register_fake
def _describe(x: Tensor, dim: int) -> Tensor:  # noqa: ARG001
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _keep(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:  # noqa: ARG001
    ctx.dim = inputs[1]


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
    return running_sum(g.flip(ctx.dim), ctx.dim).flip(ctx.dim), None


running_sum.register_autograd(_differentiate, setup_context=_keep)
