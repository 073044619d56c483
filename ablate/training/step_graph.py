"""A training step as one CUDA graph, which launches all of its kernels at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ablate_model.kernels.cuda_graph import capture_graph

EAGER_STEPS = 2  # before the capture; they create the optimizer's state and load every kernel

Compute = Callable[..., None]  # of the tensors of a batch


class StepGraph:
    """Calls `compute` once, and from then on replays the kernels that it launched.

    `compute` must not wait for the device. It must keep its state (weights, optimizer state, sums) in the same tensors.
    Random numbers follow the default generator's seed at each replay.
    """

    def __init__(self, compute: Compute, *batch: Tensor) -> None:
        self.batch = tuple(map(torch.empty_like, batch))
        self.replay = capture_graph(partial(compute, *self.batch))

    def __call__(self, *batch: Tensor) -> None:
        for own, given in zip(self.batch, batch, strict=True):
            own.copy_(given, non_blocking=True)
        self.replay()


def compute_aside(compute: Compute, *batch: Tensor) -> None:
    """Call `compute` on a side stream, because a capture must not depend on the default stream."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        compute(*batch)
    torch.cuda.current_stream().wait_stream(stream)
