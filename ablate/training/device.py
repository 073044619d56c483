"""What training asks of a device: the time, its random numbers and its memory."""

from __future__ import annotations

import gc
import resource
import sys
import time

import torch


def now(device: torch.device) -> float:
    """Seconds, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def default_generator(device: torch.device) -> torch.Generator:
    """What dropout draws from. `torch.manual_seed` would do, but costs 0.3 ms a step where CUDA is not in use."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


def free_memory(device: torch.device) -> None:
    """Give back to the device what no tensor in use holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this run's tensors took on a GPU; on the CPU the most that the process ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
