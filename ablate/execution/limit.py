"""`--minutes`: begin no run that would not end in time, for machines that are lent for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from ablate.plan import Run


class TimeLimit:
    """Knows how fast runs were, network by network, and when time is up. `is_over` once a run was refused."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.deadline = clock, clock() + 60 * minutes
        self.is_over = False
        self._rates: dict[str, list[float]] = {}  # seconds a token

    def learn(self, run: Run, took_s: float) -> None:
        """A run that was trained to its end took so long."""
        if took_s > 0:
            self._rates.setdefault(_network(run), []).append(took_s / run.arm.n_tokens)

    def allows(self, run: Run) -> bool:
        """Whether a run that begins now will probably end in time: it is expected to be as fast as others of its
        network, and where there are none, as the slowest network. The first one is allowed while there is any time."""
        known = self._rates.get(_network(run))
        rate = median(known) if known else max(map(median, self._rates.values()), default=0.0)
        is_allowed = self.clock() + rate * run.arm.n_tokens <= self.deadline
        self.is_over = self.is_over or not is_allowed
        return is_allowed


def _network(run: Run) -> str:
    return repr(run.arm.model)
