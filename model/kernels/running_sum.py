"""Running sums by torch's own kernel, also inside compiled blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("ablate::running_sum", mutates_args=())
def running_sum(x: Tensor, dim: int) -> Tensor:
    """Compute x.cumsum(dim), as an operator that is opaque to torch.compile.

    On a GPU the compiler's own scan of more than 128 entries fails when its input is a broadcast
    (github.com/pytorch/pytorch/issues/180221).
    """
    return x.contiguous().cumsum(dim)


@running_sum.register_fake
def _describe(x: Tensor, dim: int) -> Tensor:  # noqa: ARG001
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _keep(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:  # noqa: ARG001
    ctx.dim = inputs[1]


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
    return running_sum(g.flip(ctx.dim), ctx.dim).flip(ctx.dim), None


running_sum.register_autograd(_differentiate, setup_context=_keep)
