"""A training step as one CUDA graph: launched at once, however many kernels it has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ablate_model.kernels.cuda_graph import capture_graph

EAGER_STEPS = 2  # before the capture: they make the optimizer's state and load every kernel

Compute = Callable[[Tensor, Tensor], None]


class StepGraph:
    """Computes what `compute` does, by replaying the kernels that it launched once.

    `compute` must wait for nothing on the device, and keep what outlives a step (weights, optimizer state, sums) in the
    same tensors from step to step. Random numbers follow the default generator's seed at each replay.
    """

    def __init__(self, compute: Compute, inputs_bt: Tensor, targets_bt: Tensor) -> None:
        self.inputs_bt, self.targets_bt = torch.empty_like(inputs_bt), torch.empty_like(targets_bt)
        self.replay = capture_graph(partial(compute, self.inputs_bt, self.targets_bt))

    def __call__(self, inputs_bt: Tensor, targets_bt: Tensor) -> None:
        self.inputs_bt.copy_(inputs_bt, non_blocking=True)
        self.targets_bt.copy_(targets_bt, non_blocking=True)
        self.replay()


def compute_aside(compute: Compute, inputs_bt: Tensor, targets_bt: Tensor) -> None:
    """`compute` on another stream than the default one, which a capture must not depend on."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        compute(inputs_bt, targets_bt)
    torch.cuda.current_stream().wait_stream(stream)
