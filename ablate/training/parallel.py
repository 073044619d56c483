"""One run trained by several processes, each on its rows of every batch."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor

# How long a process waits for the others: longer than a checkpoint or a compilation takes. The driver notices a
# process that hangs long before.
PATIENCE = timedelta(hours=2)
LOOPBACK = ("lo", "lo0")

BUCKET_BYTES = 2**25
"""Gradients are summed in buckets of about this size: large enough to use the whole link between two GPUs, and small
enough that sums start early in a backward pass. PyTorch's own default is 25 MB."""

T = TypeVar("T")


class Group(ABC):
    """The processes that train a run together. All make the same calls in the same order. Rank 0 keeps the records."""

    rank: int
    size: int

    @abstractmethod
    def equalize(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors with those of rank 0, because other processors may initialize with other digits."""

    @abstractmethod
    def sum_gradients(self, parameters: Sequence[Tensor]) -> AbstractContextManager[object]:
        """Surround the last backward pass of a step. Afterwards, gradients are their sums over the group."""

    @abstractmethod
    def sum(self, value: Tensor) -> Tensor:
        """Return the sum over the group, the same in every process."""

    @abstractmethod
    def agree(self, wish: bool) -> bool:
        """Return whether any process of the group wishes it."""

    @abstractmethod
    def share(self, make: Callable[[], T]) -> T:
        """Return the result of `make` in rank 0, the only process that calls it."""


@final
class Alone(Group):
    """A group of one."""

    rank, size = 0, 1

    def equalize(self, tensors: Sequence[Tensor]) -> None: ...

    def sum_gradients(self, parameters: Sequence[Tensor]) -> AbstractContextManager[object]:  # noqa: ARG002
        return nullcontext()

    def sum(self, value: Tensor) -> Tensor:
        return value

    def agree(self, wish: bool) -> bool:
        return wish

    def share(self, make: Callable[[], T]) -> T:
        return make()


@final
class DataParallel(Group):
    """Gradients summed by torch.distributed while the backward pass goes on (Li et al. 2020, arXiv 2006.15704).

    Every process computes all parameters and optimizer states from the same gradients by the same operations, so they
    stay equal. The processes find each other by a `store` of torch.distributed that all reach. The constructor
    returns when `size` processes are there.
    """

    def __init__(self, rank: int, size: int, store: Any, device: torch.device) -> None:
        self.rank, self.size = rank, size
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)

    def equalize(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)

    @contextmanager
    def sum_gradients(self, parameters: Sequence[Tensor]) -> Iterator[None]:
        summation = _Summation(parameters)
        # For this pass only: the other micro-batches add to the gradients without a sum.
        hooks = [
            parameter.register_post_accumulate_grad_hook(summation.count)  # type: ignore[no-untyped-call]
            for parameter in summation.bucket_of
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        summation.finish()

    def sum(self, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    def agree(self, wish: bool) -> bool:
        # On the CPU, so that no process waits for a device.
        return bool(self.sum(torch.tensor(int(wish))))

    def share(self, make: Callable[[], T]) -> T:
        box: list[T | None] = [make() if self.rank == 0 else None]
        dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]  # type: ignore[return-value]


class _Summation:
    """Sums gradients over the group, one bucket after another, each as soon as all of its gradients are there.

    Buckets start in the same order in every process, even if gradients do not arrive in the same order, because the
    sums of different buckets would be mixed up otherwise. NCCL sums on a stream of its own, also while a CUDA graph is
    captured (since NCCL 2.9.6).
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._buckets = _divide([parameter for parameter in parameters if parameter.requires_grad])
        self.bucket_of = {parameter: index for index, bucket in enumerate(self._buckets) for parameter in bucket}
        self._missing = [len(bucket) for bucket in self._buckets]
        self._n_started = 0
        self._works: list[Any] = []  # what torch calls the handles of its collectives

    def count(self, parameter: Tensor) -> None:
        """Note that the gradient of a parameter is complete in this process."""
        self._missing[self.bucket_of[parameter]] -= 1
        while self._n_started < len(self._buckets) and not self._missing[self._n_started]:
            self._start()

    def finish(self) -> None:
        """Sum the rest, which is not empty if a parameter took no part in the loss, and wait for all sums.

        With NCCL, the current stream waits, not this thread.
        """
        while self._n_started < len(self._buckets):
            self._start()
        for work in self._works:
            work.wait()

    def _start(self) -> None:
        """Move the gradients of the next bucket into one block of memory, and start its sum.

        They are not summed in place: before the backward pass ends, they may share memory with what it still reads.
        """
        parameters = [parameter for parameter in self._buckets[self._n_started] if parameter.grad is not None]
        self._n_started += 1
        if not parameters:
            return
        block = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        parts = block.split([parameter.numel() for parameter in parameters])  # type: ignore[no-untyped-call]
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        self._works.append(dist.all_reduce(block, async_op=True))


def _divide(parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """Divide parameters into buckets of one type, roughly in the order in which a backward pass reaches them."""
    buckets: list[list[Tensor]] = []
    n_bytes = 0
    for parameter in reversed(parameters):
        if not buckets or n_bytes >= BUCKET_BYTES or parameter.dtype != buckets[-1][0].dtype:
            buckets.append([])
            n_bytes = 0
        buckets[-1].append(parameter)
        n_bytes += parameter.nbytes
    for bucket in buckets:
        bucket.sort(key=Tensor.numel, reverse=True)  # so that no short tensor moves a matrix off a 16-byte boundary
    return buckets


def stay_on_loopback() -> None:
    """Let processes communicate only over the loopback interface. Call it before they meet."""
    name = next((name for _, name in socket.if_nameindex() if name in LOOPBACK), None)
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if name else ():
        os.environ.setdefault(variable, str(name))
