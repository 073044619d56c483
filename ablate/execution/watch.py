"""Which runs have fallen silent."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

STUCK_S = 600.0  # longer than a compilation or a single step takes

Sign = tuple[int, int]


class Watchdog:
    """Notices that a status file stops being replaced.

    It looks at whether the file changes, by a clock that nobody can set, and never compares the worker's clock with its
    own: a jump of either one kills nothing.
    """

    def __init__(self, patience_s: float = STUCK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_s, self.clock = patience_s, clock
        self._seen: dict[Path, tuple[Sign, float]] = {}

    def begin(self, status: Path) -> None:
        """Watch a run from now on: it was handed to a worker that has a place on the cluster."""
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
