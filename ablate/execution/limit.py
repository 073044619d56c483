"""`--minutes`: a study in pieces, for machines that are lent for a while."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median

from ablate.errors import GridError
from ablate.plan import Run


class TimeLimit:
    """Decides which runs may start, from how fast others were, and when those in progress have to stop.

    `is_over` is true once the time kept a run from starting or ending. Raises `GridError` if `minutes` is not a number.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        if math.isnan(minutes):
            raise GridError("--minutes nan: not a number of minutes; write it as 8 or 0.5")
        self.clock, self.deadline = clock, clock() + 60 * minutes
        self.is_over = False
        self._rates: dict[str, list[float]] = {}  # seconds per token
        self._begun: set[str] = set()

    def learn(self, run: Run, took_s: float) -> None:
        """A run that was trained to its end took so long."""
        if took_s > 0:
            self._rates.setdefault(_network(run), []).append(took_s / run.arm.n_tokens)

    def mark_begun(self, run: Run) -> None:
        """A run has a checkpoint, so that it may go on even if it does not end in time."""
        self._begun.add(run.run_id)

    def allows(self, run: Run) -> bool:
        """Whether a run may start now because it will probably end in time.

        It is expected to be as fast as others of its network, or as the slowest network if there are none. A run may
        start while there is any time if no pace is known, and resume if it has begun: it stops when the time is over.
        """
        known = self._rates.get(_network(run))
        rate = median(known) if known else max(map(median, self._rates.values()), default=0.0)
        seconds = 0.0 if run.run_id in self._begun else rate * run.arm.n_tokens
        is_allowed = self.clock() + seconds <= self.deadline
        self.is_over = self.is_over or not is_allowed
        return is_allowed

    def is_past(self) -> bool:
        """Whether the time is over, so that the runs in progress have to stop."""
        return self.clock() > self.deadline


def _network(run: Run) -> str:
    return repr(run.arm.model)
