"""Out of memory: half the micro-batch, twice the accumulation, the same mathematics."""

from __future__ import annotations

import torch

from ablate.study.schema import TrainConfig


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the host had no room. PyTorch's CPU allocator raises a plain `RuntimeError`."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def halve_micro_batch(train: TrainConfig) -> int | None:
    """The largest divisor of the batch that is at most half of what is at once on the device; None below one."""
    half = (train.micro_batch_size or train.batch_size) // 2
    return next((size for size in range(half, 0, -1) if train.batch_size % size == 0), None)
