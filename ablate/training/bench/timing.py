"""Time a call on a device."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from ablate.training.device import now
from ablate_model.kernels.cuda_graph import capture_graph

REPEATS = 3
WARM_UP_CALLS = 3  # before a capture


def time_call(call: Callable[[], object], device: torch.device, count: int, *, as_graph: bool = False) -> float:
    """Seconds per call: the median of a few means over `count` calls, after `count` calls to warm up.

    `as_graph` times a CUDA graph of the call, so that the launches of small kernels do not count.
    """
    if as_graph:
        call = _capture_warm(call)
    means = []
    for _ in range(1 + REPEATS):
        started = now(device)
        for _ in range(count):
            call()
        means.append((now(device) - started) / count)
    return statistics.median(means[1:])


def _capture_warm(call: Callable[[], object]) -> Callable[[], None]:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_CALLS):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    return capture_graph(call)
