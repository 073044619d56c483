"""The events that a driver reports, and the outcome of its work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ablate.plan import Run
from ablate.tracking.study_record import RunRecord, State

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


@dataclass
class Evaluated:
    """How many evaluations were done. `failed` has the errors of those that failed, by the evaluation in words, and
    `refused` the reasons why runs could not be evaluated."""

    n_done: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    refused: Mapping[RunRecord, str] = field(default_factory=dict)
    interrupted: bool = False
    halted: str = ""

    @property
    def exit_code(self) -> int:
        return 1 if self.halted or self.failed else 130 if self.interrupted else 0


@dataclass(frozen=True)
class Outcome:
    """The number of runs in each state, whether the driver was interrupted, and the error that halted it, if any.

    `lost` has the errors, by run id, of the runs that the driver gave up. Their status may not have them. `evaluated`
    is what became of the grid's evaluations.
    """

    states: Mapping[str, int]
    interrupted: bool
    halted: str = ""
    lost: Mapping[str, str] = field(default_factory=dict)
    evaluated: Evaluated = field(default_factory=Evaluated)

    @property
    def exit_code(self) -> int:
        if self.halted or self.states.get("failed"):
            return 1
        return 130 if self.interrupted else self.evaluated.exit_code
