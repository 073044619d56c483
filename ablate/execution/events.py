"""The events that a driver reports, and the outcome of its work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ablate.plan import Run
from ablate.tracking.study_record import State

Kind = Literal["started", "progress", "retry", "ended", "notice"]


@dataclass(frozen=True)
class Event:
    """Something to show to the user: a run started, progressed or ended. A notice concerns no single run."""

    kind: Kind
    run: Run | None = None
    state: State | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


Observer = Callable[[Event], None]


@dataclass(frozen=True)
class Outcome:
    """The number of runs in each state, whether the driver was interrupted, and the error that halted it, if any.

    `lost` has the errors, by run id, of the runs that the driver gave up. Their status may not have them.
    """

    states: Mapping[str, int]
    interrupted: bool
    halted: str = ""
    lost: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        return 1 if self.halted or self.states.get("failed") else 130 if self.interrupted else 0
