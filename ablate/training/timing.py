"""The clock of benchmarks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

REPEATS = 3


def now(device: torch.device) -> float:
    """Seconds, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def time_call(call: Callable[[], object], device: torch.device, count: int) -> float:
    """Seconds of one call: the median of a few means over `count` calls, after as many to warm up."""
    means = []
    for _ in range(1 + REPEATS):
        started = now(device)
        for _ in range(count):
            call()
        means.append((now(device) - started) / count)
    return statistics.median(means[1:])
