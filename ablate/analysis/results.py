"""The results of a study: its record, and each run with its curve as arrays. All numbers of a report come from here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ablate.analysis.checked_records import check_manifest, read_evaluations, read_mapping, read_record, read_status
from ablate.analysis.curve_columns import EMPTY_CURVE, CurveColumns, Floats, read_columns
from ablate.analysis.noise import Lender
from ablate.analysis.repeats import find_repeats
from ablate.analysis.run_curve import AXES, RunCurve
from ablate.errors import RecordError
from ablate.files import read_all
from ablate.metrics import Metric, list_metrics
from ablate.tracking.ended_run import find_extent
from ablate.tracking.evaluations import EvaluationRecord
from ablate.tracking.folders import StudyFolder
from ablate.tracking.reruns import Rerun, read_reruns
from ablate.tracking.study_record import ENDED, ArmRecord, Status, StudyRecord

if TYPE_CHECKING:
    import pandas as pd

SMALLEST_EFFECT = 0.01  # nats per token
_LONG_BYTES = 2**16  # of a curve


@dataclass(frozen=True, eq=False)
class Results:
    """A study's record with all of its runs, in the order of the record."""

    record: StudyRecord
    runs: tuple[RunCurve, ...]
    lenders: tuple[Lender, ...] = ()  # arms of earlier studies whose scatter counts in tests
    archive: Path | None = None  # where unchanged curves came from

    @cached_property
    def arms(self) -> Mapping[str, ArmRecord]:
        return {arm.arm: arm for arm in self.record.arms}

    @property
    def metric(self) -> Metric:
        """The metric by which arms are compared."""
        return self.record.metric

    @property
    def other_metrics(self) -> tuple[Metric, ...]:
        """The metrics whose final values are shown, but by which arms are not compared."""
        return list_metrics(self.record.metrics)[1:]

    @property
    def smallest_effect(self) -> float | None:
        """The smallest difference of final values that matters, if it is known.

        For the loss of a language model it is 0.01 nats unless the study says otherwise.
        """
        declared = self.record.smallest_effect
        return SMALLEST_EFFECT if declared is None and self.metric.is_loss else declared

    @cached_property
    def _runs_of_arm(self) -> Mapping[str, tuple[RunCurve, ...]]:
        found: dict[str, list[RunCurve]] = {arm: [] for arm in self.arms}
        for run in self.runs:
            found[run.arm].append(run)
        return {arm: tuple(runs) for arm, runs in found.items()}

    def runs_of(self, arm: str) -> tuple[RunCurve, ...]:
        return self._runs_of_arm[arm]

    @cached_property
    def _ended_runs(self) -> Mapping[str, tuple[RunCurve, ...]]:
        return {arm: tuple(run for run in runs if run.has_ended) for arm, runs in self._runs_of_arm.items()}

    def ended_runs(self, arm: str) -> tuple[RunCurve, ...]:
        return self._ended_runs[arm]

    def baseline_of(self, arm: str) -> str:
        return self.arms[arm].baseline

    @cached_property
    def cost_axes(self) -> tuple[str, ...]:
        """The axes of cost that an ended run recorded. GPU-seconds need a GPU in every ended run."""
        ended = [run for run in self.runs if run.has_ended]
        axes = AXES if ended and all(run.n_gpus for run in ended) else AXES[:-1]
        return tuple(
            axis
            for axis in axes
            if not ended or any(run.why_no_cost(axis) or np.isfinite(run.cost(axis)).any() for run in ended)
        )

    @property
    def compared_arms(self) -> tuple[str, ...]:
        """The arms that are not their own baseline."""
        return tuple(arm.arm for arm in self.record.arms if arm.baseline != arm.arm)

    def frame(self) -> pd.DataFrame:
        """Build the tidy table of all curves: one row per run and logged step."""
        import pandas as pd

        frames = [
            pd.DataFrame({"arm": run.arm, "seed": run.seed, "run_id": run.run_id, "state": run.state, **run.columns})
            for run in self.runs
        ]
        table = pd.concat(
            [frame for frame in frames if len(frame)] or frames[:1] or [pd.DataFrame()], ignore_index=True
        )
        return table.astype({"step": "int64"}) if "step" in table else table


class Known(NamedTuple):
    """Everything about a run except its place in the record: the last fields of `RunCurve`."""

    status: Status
    columns: Mapping[str, Floats]
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    n_passed_over: int = 0
    is_altered: bool = False
    unread: str = ""
    evaluations: tuple[EvaluationRecord, ...] = ()
    reruns: tuple[Rerun, ...] = ()
    extent: tuple[int, int] = (0, 0)


def read_results(store: StudyFolder, archived: Mapping[str, CurveColumns] | None = None) -> Results:
    """Read the record of a study and all of its runs. A curve of `archived`, by run id, is not parsed if it is current.

    A line that is not a record is skipped and counted. A run without a folder is queued, and a run whose curve cannot
    be read has no lines. Raises `RecordError` if no study was run here, or its record cannot be read.
    """
    record, curves = read_record(store), archived or {}
    run_ids = sorted({run.run_id for run in record.runs})

    def read(run_id: str) -> Known:
        return read_run(store, run_id, curves.get(run_id))

    def have_long_curves(some: Sequence[Known]) -> bool:  # whose parser releases the interpreter's lock
        return sum(entry.extent[0] for entry in some) > _LONG_BYTES * len(some)

    known = read_all(read, run_ids, have_long_curves)
    return assemble(record, dict(zip(run_ids, known, strict=True)), str(store.record))


def assemble(record: StudyRecord, known: Mapping[str, Known], place: str) -> Results:
    """Build the results of a study from its record and the facts about each run, by run id.

    Raises `RecordError`, naming the `place`, if the record is inconsistent.
    """
    n_steps = {arm.arm: arm.n_steps for arm in record.arms}
    if unknown := sorted({run.arm for run in record.runs} - n_steps.keys()):
        raise RecordError(f"{place}: it has runs of the arm {unknown[0]!r} but no such arm")
    if unknown := sorted({arm.baseline for arm in record.arms} - n_steps.keys()):
        raise RecordError(f"{place}: the baseline {unknown[0]!r} is not an arm of this study")
    metrics = list_metrics(record.metrics)
    runs = tuple(
        RunCurve(
            run.run_id,
            run.arm,
            run.seed,
            n_steps[run.arm] or max(known[run.run_id].status.n_steps, known[run.run_id].status.step, 1),
            *known[run.run_id],
            metrics,
        )
        for run in record.runs
    )
    repeats = find_repeats(runs)
    runs = tuple(replace(run, repeats=repeats[run.run_id]) if run.run_id in repeats else run for run in runs)
    return Results(_complete(record, runs), runs)


def _complete(record: StudyRecord, runs: Iterable[RunCurve]) -> StudyRecord:
    """Fill in what only the runs of a program know: how many steps an arm has. It is the most that one run has.

    It stays 0 if no run knows it.
    """
    if all(arm.n_steps for arm in record.arms):
        return record
    most: dict[str, int] = {}
    for run in runs:
        most[run.arm] = max(most.get(run.arm, 0), run.status.known_steps)
    return replace(record, arms=tuple(replace(arm, n_steps=arm.n_steps or most.get(arm.arm, 0)) for arm in record.arms))


def read_run(store: StudyFolder, run_id: str, archived: CurveColumns | None = None) -> Known:
    """Read the files of a run, except its curve if `archived` is what the file holds. It is queued without a folder."""
    folder = store.run(run_id)
    status, unread = read_status(folder.status), ""  # before the curve, which grows until the end
    try:
        lines = archived if archived and _is_current(archived, folder.curve) else read_columns(folder.curve)
    except RecordError as error:  # a flaw of this run only; published pages contain no paths
        lines, unread = EMPTY_CURVE, str(error).replace(str(folder.curve), folder.curve.name)
    return Known(
        status,
        lines.columns,
        check_manifest(read_mapping(folder.manifest)),
        read_mapping(folder.config),
        lines.n_passed_over,
        status.curve is not None and status.state in ENDED and status.curve != lines.extent,
        unread,
        read_evaluations(folder.path, status),
        read_reruns(folder.path),
        lines.extent,
    )


def _is_current(archived: CurveColumns, curve: Path) -> bool:
    try:
        return find_extent(curve) == archived.extent
    except OSError:
        return False
