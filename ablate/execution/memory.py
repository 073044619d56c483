"""How a want of memory shows."""

from __future__ import annotations

import torch


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
