"""One run trained by several processes, each on its rows of every batch."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ablate_model.gpt import HeadedModel

# How long a process waits for the others: longer than a checkpoint or a compilation takes. The driver notices a
# process that hangs long before.
PATIENCE = timedelta(hours=2)
LOOPBACK = ("lo", "lo0")

T = TypeVar("T")
Loss = Callable[..., Tensor]  # of the tensors of a batch


class Group(ABC):
    """The processes that train a run together. All make the same calls in the same order. Rank 0 keeps the records."""

    rank: int
    size: int

    @abstractmethod
    def wrap(self, model: HeadedModel, loss: Loss) -> Loss:
        """Return the `loss` of the model, a function of a batch, so that its backward pass averages gradients over the
        group."""

    @abstractmethod
    def accumulate(self) -> AbstractContextManager[object]:
        """Surround a forward and backward pass that does not average gradients; a later pass does it."""

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

    def wrap(self, model: HeadedModel, loss: Loss) -> Loss:  # noqa: ARG002 - only a replica needs the model
        return loss

    def accumulate(self) -> AbstractContextManager[object]:
        return nullcontext()

    def sum(self, value: Tensor) -> Tensor:
        return value

    def agree(self, wish: bool) -> bool:
        return wish

    def share(self, make: Callable[[], T]) -> T:
        return make()


@final
class DataParallel(Group):
    """Gradients averaged by torch's DistributedDataParallel (Li et al. 2020, arXiv 2006.15704).

    Every process computes all parameters and optimizer states from the same gradients by the same operations, so they
    stay equal. The processes find each other by a `store` of torch.distributed that all reach. The constructor
    returns when `size` processes are there.
    """

    def __init__(self, rank: int, size: int, store: Any, device: torch.device) -> None:
        self.rank, self.size = rank, size
        self._replica: DistributedDataParallel | None = None
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)

    def wrap(self, model: HeadedModel, loss: Loss) -> Loss:
        self._replica = DistributedDataParallel(_LossModule(model, loss), broadcast_buffers=False)
        return self._replica

    def accumulate(self) -> AbstractContextManager[object]:
        assert self._replica is not None, "wrap comes first"
        return self._replica.no_sync()

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


class _LossModule(nn.Module):
    """The loss as a forward pass, because DistributedDataParallel only wraps `forward`."""

    def __init__(self, model: HeadedModel, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *batch: Tensor) -> Tensor:
        return self.loss(*batch)


def stay_on_loopback() -> None:
    """Let processes communicate only over the loopback interface. Call it before they meet."""
    name = next((name for _, name in socket.if_nameindex() if name in LOOPBACK), None)
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if name else ():
        os.environ.setdefault(variable, str(name))
