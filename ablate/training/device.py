"""The clock, the random numbers and the memory of a device, and how batches get there."""

from __future__ import annotations

import gc
import os
import resource
import sys
import time

import torch
from torch import Tensor

from ablate.study.schema import TrainConfig
from ablate.training.compilation import start_compilers
from ablate.training.contract import Batch
from ablate.training.precision import forbid_tf32


def now(device: torch.device) -> float:
    """The time in seconds, after the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
    """Copy arrays to a device, without waiting for it."""
    tensors = map(torch.from_numpy, batch)
    pinned = (tensor.pin_memory() if device.type == "cuda" else tensor for tensor in tensors)
    return tuple(tensor.to(device, non_blocking=True) for tensor in pinned)


def default_generator(device: torch.device) -> torch.Generator:
    """The generator of dropout. `torch.manual_seed` would seed it too, but costs 0.3 ms per step without CUDA."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


CUBLAS_WORKSPACE = ":4096:8"
"""A setting with which cuBLAS is deterministic: eight buffers of 4 MiB (documentation of cuBLAS, section 2.1.4)."""


def set_deterministic(is_deterministic: bool) -> None:
    """Let this process use only deterministic algorithms, or any, from here on.

    An operation of torch that has none raises `RuntimeError`, and `torch.compile` no longer chooses kernels by timing.
    """
    if is_deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if is_deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(is_deterministic)


def keep_loaded() -> None:
    """Collect garbage, and let later collections pass over what is left: modules and compiled code, whose many objects
    take a tenth of a second. For a process that keeps nothing else between runs."""
    gc.collect()
    gc.freeze()


def prepare_process(train: TrainConfig, device: str, threads: int) -> None:
    """Prepare this process for a run, and remove what the run before left in memory."""
    torch.set_num_threads(threads)
    forbid_tf32()
    if train.compile and device != "cpu":
        start_compilers()
    # The previous run's compiled model is in reference cycles, and its graph holds memory. Collecting takes 0.15 s.
    if train.compile or device != "cpu":
        free_memory(torch.device(device))


def free_memory(device: torch.device) -> None:
    """Release the memory of tensors that are no longer in use."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_memory_bytes(device: torch.device) -> int:
    """The peak memory of this run's tensors on a GPU; on the CPU, the peak of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error, or one that led to it, says that the device or the host ran out of memory.

    PyTorch's CPU allocator raises a plain `RuntimeError`. If an allocation fails during the capture of a CUDA graph,
    ending the capture may raise another error.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):
        return True
    return error.__context__ is not None and is_out_of_memory(error.__context__)
