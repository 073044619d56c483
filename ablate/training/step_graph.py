"""A training step as one CUDA graph, which launches all of its kernels at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ablate_model.kernels.cuda_graph import capture_graph

EAGER_STEPS = 2  # before the capture; they create the optimizer's state and load every kernel

Compute = Callable[[Tensor, Tensor], None]


class StepGraph:
    """Calls `compute` once, and from then on replays the kernels that it launched.

    `compute` must not wait for the device. It must keep its state (weights, optimizer state, sums) in the same tensors.
    Random numbers follow the default generator's seed at each replay.
    """

    def __init__(self, compute: Compute, inputs_bt: Tensor, targets_bt: Tensor) -> None:
        self.inputs_bt, self.targets_bt = torch.empty_like(inputs_bt), torch.empty_like(targets_bt)
        self.replay = capture_graph(partial(compute, self.inputs_bt, self.targets_bt))

    def __call__(self, inputs_bt: Tensor, targets_bt: Tensor) -> None:
        self.inputs_bt.copy_(inputs_bt, non_blocking=True)
        self.targets_bt.copy_(targets_bt, non_blocking=True)
        self.replay()


def compute_aside(compute: Compute, inputs_bt: Tensor, targets_bt: Tensor) -> None:
    """Call `compute` on a side stream, because a capture must not depend on the default stream."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        compute(inputs_bt, targets_bt)
    torch.cuda.current_stream().wait_stream(stream)
