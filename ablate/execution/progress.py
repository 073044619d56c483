"""What a driver reports while it works: events, the curves of runs in progress, and the outcome."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ablate.execution.early_stopping import Stopping
from ablate.plan import Run
from ablate.tracking.curve import CurveReader
from ablate.tracking.folders import StudyFolder
from ablate.tracking.mlflow_mirror import MlflowMirror
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


class CurveFeed:
    """Reads each line of each curve once. `metrics` are those of the study; `cuts` has the runs that early stopping
    ends, with the reason."""

    def __init__(
        self,
        store: StudyFolder,
        mirror: MlflowMirror,
        observe: Observer,
        stopping: Stopping | None,
        metrics: Collection[str],
    ) -> None:
        self.store, self.mirror, self.observe, self.stopping, self.metrics = store, mirror, observe, stopping, metrics
        self.cuts: dict[str, str] = {}
        self._readers: dict[str, CurveReader] = {}

    def begin(self, run: Run) -> None:
        """Read what the run wrote before it is trained (again)."""
        if run.run_id in self._readers:
            self._read(run)
            return
        # Early stopping has seen the lines that an earlier driver left.
        reader = self._readers[run.run_id] = CurveReader(self.store.run(run.run_id).curve)
        reader.read()
        self.mirror.note_lines(run.run_id)

    def end(self, run: Run) -> None:
        """Forget a run that has ended."""
        self._readers.pop(run.run_id, None)

    def report(self, run: Run, more: Mapping[str, Any] | None = None) -> None:
        """Report the progress since the last look, with `more` figures, if there is any."""
        records = self._read(run)
        if not records:
            return
        last = {name: record[name] for record in records for name in self.metrics if record.get(name) is not None}
        self.observe(Event("progress", run, record={**records[-1], **last, **(more or {})}))

    def _read(self, run: Run) -> list[dict[str, Any]]:
        records = self._readers[run.run_id].read()
        if records:
            self.mirror.note_lines(run.run_id)
        if self.stopping is not None and (reason := self.stopping.judge(run, records)):
            self.cuts.setdefault(run.run_id, reason)
        return records
