"""Signs that a run failed: a status file that is no longer updated, a lack of memory, a folder that is not writable."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

STUCK_S = 600.0  # longer than a compilation or a single step takes

NO_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
NO_RIGHT = frozenset({errno.EACCES, errno.EPERM})

Sign = tuple[int, int]


class Watchdog:
    """Notices that a status file is no longer replaced.

    It uses a monotonic clock and only looks at whether the file changes. It never compares the worker's clock with its
    own, so setting either clock kills no worker.
    """

    def __init__(self, patience_s: float = STUCK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_s, self.clock = patience_s, clock
        self._seen: dict[Path, tuple[Sign, float]] = {}

    def begin(self, status: Path) -> None:
        """Start watching a run: its worker has a place on the cluster."""
        self._seen[status] = (_sign(status), self.clock())

    def has_news(self, status: Path) -> bool:
        """Whether the file was replaced since the last look."""
        sign = _sign(status)
        if sign == self._seen[status][0]:
            return False
        self._seen[status] = (sign, self.clock())
        return True

    def is_stuck(self, status: Path) -> bool:
        return self.clock() - self._seen[status][1] > self.patience_s


def _sign(path: Path) -> Sign:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0)
    return (stat.st_ino, stat.st_mtime_ns)


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


def is_unwritable(error: BaseException, study: Path) -> bool:
    """Whether the error would end every other run too: the disk is full or read-only, or the study's folder is not
    writable."""
    if not isinstance(error, OSError):
        return False
    return error.errno in NO_DISK or (error.errno in NO_RIGHT and not os.access(study, os.W_OK))
