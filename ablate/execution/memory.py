"""How a lack of memory shows, before a study starts and in its runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from ablate.errors import ResourceError
from ablate.execution.placement import Placement
from ablate.formatting import format_count
from ablate.plan import Run
from ablate.plan.estimate import least_bytes
from ablate.study.declaration import Declaration


def check_memory(study: Declaration, runs: Sequence[Run], placement: Placement) -> None:
    """Raises `ResourceError` where the weights, gradients and optimizer state of a run alone do not fit into this
    machine, whatever else is done to save memory."""
    if not runs:
        return
    total = _total_bytes(placement.gpus > 0)
    arm = max((run.arm for run in runs), key=lambda arm: least_bytes(arm.model, arm.train))
    needed = least_bytes(arm.model, arm.train)
    if total and needed > total:
        device = "the largest GPU" if placement.gpus else "memory and swap"
        raise ResourceError(
            f"{study.locate(('model',))}: the arm {arm.name} has {format_count(arm.n_params)} parameters: their "
            f"weights, gradients and optimizer state take at least {format_count(needed)}B, "
            f"and {device} of this machine {'has' if placement.gpus else 'have'} {format_count(total)}B"
        )


def _total_bytes(on_gpu: bool) -> int:
    """All memory of the largest GPU, or of this machine with its swap; 0 where that is unknown."""
    if on_gpu:
        devices = range(torch.cuda.device_count())
        return max((torch.cuda.get_device_properties(device).total_memory for device in devices), default=0)
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with Path("/proc/meminfo").open() as file:
            swap = next((int(line.split()[1]) * 1024 for line in file if line.startswith("SwapTotal:")), 0)
    except (OSError, ValueError):
        return 0  # macOS, which swaps as much as its disk holds
    return total + swap


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no room, which may be what led to the error.

    PyTorch's CPU allocator raises a plain `RuntimeError`; and where an allocation fails in the capture of a CUDA graph,
    the end of the capture may raise an error of its own.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):
        return True
    return error.__context__ is not None and is_out_of_memory(error.__context__)
