"""`--minutes`: begin no run that would not end in time, for machines that are lent for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from ablate.plan import Run


class TimeLimit:
    """Knows how fast runs were, all of them alike, and when time is up. `is_over` once a run was refused."""

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.deadline = clock, clock() + 60 * minutes
        self.is_over = False
        self._rates: list[float] = []

    def learn(self, run: Run, took_s: float) -> None:
        """A run that was trained to its end took so long."""
        if took_s > 0:
            self._rates.append(took_s / run.arm.n_tokens)

    def allows(self, run: Run) -> bool:
        """Whether a run that begins now will probably end in time; the first one is allowed while there is any."""
        expected_s = median(self._rates) * run.arm.n_tokens if self._rates else 0.0
        self.is_over = self.is_over or self.clock() + expected_s > self.deadline
        return not self.is_over
