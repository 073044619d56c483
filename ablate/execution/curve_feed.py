"""The curves of runs in progress, on their way to MLflow, to early stopping and to the person who watches."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ablate.execution.early_stopping import Stopping
from ablate.execution.events import Event, Observer
from ablate.plan import Run
from ablate.tracking.curve import CurveReader
from ablate.tracking.folders import StudyFolder
from ablate.tracking.mlflow_mirror import MlflowMirror


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
