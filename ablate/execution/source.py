"""Where a driver gets further runs from while others train: a search asks for trials in this way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ablate.plan import Run
from ablate.tracking.study_record import State


class RunSource(ABC):
    """Is asked for runs whenever a worker is free and nothing waits, and told of every run that ended."""

    @property
    @abstractmethod
    def n_left(self) -> int:
        """About how many runs may still come; 0 where none will."""

    @abstractmethod
    def draw(self) -> Sequence[Run]:
        """Further runs to train, written into the study's record already; none where none are to be had now."""

    @abstractmethod
    def tell(self, run: Run, state: State) -> None:
        """A run ended: finished, diverged or failed."""
