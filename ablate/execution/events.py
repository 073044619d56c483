"""What the driver tells those who look on, and how a study stands after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ablate.plan import Run
from ablate.tracking.study_record import State

Kind = Literal["started", "progress", "retry", "ended", "notice"]


@dataclass(frozen=True)
class Event:
    """Something that a person may want to see: a run started, went on, or ended; a notice is about no run."""

    kind: Kind
    run: Run | None = None
    state: State | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


Observer = Callable[[Event], None]


@dataclass(frozen=True)
class Outcome:
    """The number of runs by state, whether the driver was interrupted, and what made it give up, if anything did.

    `lost` has the errors of runs, by run id, that the driver gave up: their status may not tell.
    """

    states: Mapping[str, int]
    interrupted: bool
    halted: str = ""
    lost: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return 1 if self.halted or self.states.get("failed") else 130 if self.interrupted else 0
