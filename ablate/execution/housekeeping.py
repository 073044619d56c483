"""A study's disk budget, kept while it trains."""

from __future__ import annotations

import time

from ablate.errors import RecordError
from ablate.execution.events import Event, Observer
from ablate.formatting import format_count
from ablate.tracking.cleaning import Keep, clean
from ablate.tracking.folders import StudyFolder

EVERY_S = 10.0  # a look at a study of thousands of runs takes a while


class Housekeeper:
    """Passes events on, and removes weights by rule and budget where runs have ended, as `ablate clean` does."""

    def __init__(self, store: StudyFolder, keep: Keep, budget_bytes: int | None, observe: Observer) -> None:
        self.store, self.keep, self.budget_bytes, self._observe = store, keep, budget_bytes, observe
        self._looked_at = -EVERY_S

    def observe(self, event: Event) -> None:
        self._observe(event)
        if event.kind == "ended" and time.monotonic() - self._looked_at >= EVERY_S:
            self.tidy()

    def tidy(self) -> None:
        if self.keep == "all" and self.budget_bytes is None:
            return
        self._looked_at = time.monotonic()
        try:
            removals = clean(self.store, self.keep, self.budget_bytes)
        except (OSError, RecordError) as error:  # training is worth more than room
            self._observe(Event("notice", text=f"no weights were removed: {error}"))
            return
        if removals:
            freed = format_count(sum(removal.n_bytes for removal in removals))
            self._observe(Event("notice", text=f"{freed}B of weights and leftovers removed ({removals[-1].reason})"))
