"""The results of a study: its record, and each run with its curve as arrays. All numbers of a report come from here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ablate.analysis.checked_records import check_manifest, read_mapping, read_record, read_status
from ablate.analysis.curve_columns import CORE_COLUMNS, EMPTY_CURVE, Floats, read_columns
from ablate.errors import RecordError
from ablate.metrics import LOSS, Metric, list_metrics
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import ENDED, ArmRecord, Status, StudyRecord

if TYPE_CHECKING:
    import pandas as pd

AXES = ("steps", "tokens", "flops", "seconds", "gpu_seconds")
_COLUMN_OF_AXIS = {"steps": "step", "tokens": "tokens", "flops": "flops", "seconds": "wall_s", "gpu_seconds": "wall_s"}


@dataclass(frozen=True, eq=False)
class RunCurve:
    """One run: its state, and its curve as one array per column, nan where a line lacks the key.

    `columns` always holds `CORE_COLUMNS`, and steps strictly increase. `n_passed_over` counts the lines of the file
    that are not records. `is_altered` means that the file does not have the length and checksum that were noted when
    the run ended. `unread` says why the file could not be read. `metrics` are those of the study; the first is the one
    by which arms are compared.
    """

    run_id: str
    arm: str
    seed: int
    n_steps: int
    status: Status
    columns: Mapping[str, Floats]
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    n_passed_over: int = 0
    is_altered: bool = False
    unread: str = ""
    metrics: tuple[Metric, ...] = (LOSS,)

    @property
    def metric(self) -> Metric:
        """The metric by which arms are compared."""
        return self.metrics[0]

    @property
    def last_step(self) -> int:
        """The last step in its status, or the end of the curve if that is incomplete."""
        ends_at = self._ends_at
        return ends_at if self.flaw else max(self.status.step, ends_at)

    @cached_property
    def flaw(self) -> str:
        """Why the curve of an ended run cannot be the one that it ended with; empty if it can."""
        if self.status.state not in ENDED:
            return ""
        if self.unread:
            return self.unread
        if isinstance(known := self.manifest.get("flaw"), str):
            return known
        if self.is_altered:
            return "curve.jsonl is not the file that the run ended with"
        steps = self.columns["step"]
        if not steps.size:
            return "the curve has no line"
        # Early stopping may end a run between two lines. Any other run ends with a line.
        n_allowed = float(np.diff(steps, prepend=0).max()) if self.status.is_cut else 1
        if 0 <= self.status.step - self._ends_at < n_allowed:
            return ""
        return f"curve.jsonl ends at step {self._ends_at}, status.json says {self.status.step}"

    @property
    def _ends_at(self) -> int:
        steps = self.columns["step"]
        return int(steps[-1]) if steps.size else 0

    @property
    def state(self) -> str:
        """The state in its status, or the more precise `stopped early` or `incomplete curve`."""
        return "incomplete curve" if self.flaw else "stopped early" if self.was_stopped else self.status.state

    @property
    def is_diverged(self) -> bool:
        return self.status.state == "diverged"

    @property
    def has_ended(self) -> bool:
        """Whether its numbers count: it finished or diverged, was evaluated, and its curve is complete."""
        return self.status.state in ENDED and not self.flaw and self.evaluation_loss.size > 0

    @property
    def is_whole(self) -> bool:
        """Whether it was trained to the end of its budget."""
        return self.status.state == "finished" and not self.flaw and self.last_step >= self.n_steps

    @property
    def was_stopped(self) -> bool:
        """Whether early stopping ended it before the end of its budget."""
        return self.status.state == "finished" and not self.flaw and self.last_step < self.n_steps

    @property
    def n_gpus(self) -> float:
        """The number or fraction of GPUs that the run held; 0 on a CPU."""
        if device_of(self.manifest).get("kind") != "cuda":
            return 0.0
        gpus = self.manifest.get("gpus")
        return float(gpus) if isinstance(gpus, int | float) and gpus > 0 else 1.0

    @property
    def n_sharing(self) -> int:
        """How many runs shared its device at a time. A run with a whole GPU shares it with none."""
        return 1 if self.n_gpus >= 1 else self.manifest.get("shared_by") or 1

    def cost(self, axis: str) -> Floats:
        """Return the cost up to each line on one of `AXES`: steps, tokens, FLOPs, s, or GPU s."""
        column = self.columns[_COLUMN_OF_AXIS[axis]]
        return column * self.n_gpus if axis == "gpu_seconds" else column

    def why_no_cost(self, axis: str) -> str:
        """Say why a cost of an imported run was left out; empty if it was not."""
        known = self.manifest.get("no_cost")
        reason = known.get(_COLUMN_OF_AXIS[axis]) if isinstance(known, Mapping) else None
        return reason if isinstance(reason, str) else ""

    @property
    def step_unit(self) -> str:
        """The unit of steps that are not training steps: `validation` for epochs and the like."""
        unit = self.manifest.get("step_unit")
        return unit if isinstance(unit, str) else ""

    def cost_of_evaluations(self, axis: str) -> Floats:
        return self.cost(axis)[self._evaluated]

    @cached_property
    def evaluation_loss(self) -> Floats:
        """The values of the metric, one per evaluation: validation losses (nats per token) of a language model."""
        return self._values_of(self.metric)[self._evaluated]

    @cached_property
    def _evaluated(self) -> NDArray[np.bool_]:
        return np.isfinite(self._values_of(self.metric))

    def _values_of(self, metric: Metric) -> Floats:
        return self.columns.get(metric.name, np.full(self.columns["step"].size, np.nan))

    @property
    def final_loss(self) -> float:
        """The last value of the metric of a whole run, such as its validation loss; nan for any other."""
        return self.final_value(self.metric)

    def final_value(self, metric: Metric) -> float:
        """The last value of one of the study's metrics, if the run is whole; nan otherwise."""
        values = self._values_of(metric)
        known = values[np.isfinite(values)]
        return float(known[-1]) if self.is_whole and known.size else float("nan")

    @property
    def diagnostics(self) -> tuple[str, ...]:
        known = {*CORE_COLUMNS, *(metric.name for metric in self.metrics)}
        return tuple(name for name in self.columns if name not in known)


@dataclass(frozen=True, eq=False)
class Results:
    """A study's record with all of its runs, in the order of the record."""

    record: StudyRecord
    runs: tuple[RunCurve, ...]

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

    @cached_property
    def _runs_of_arm(self) -> Mapping[str, tuple[RunCurve, ...]]:
        return {arm: tuple(run for run in self.runs if run.arm == arm) for arm in self.arms}

    def runs_of(self, arm: str) -> tuple[RunCurve, ...]:
        return self._runs_of_arm[arm]

    def ended_runs(self, arm: str) -> tuple[RunCurve, ...]:
        return tuple(run for run in self.runs_of(arm) if run.has_ended)

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


def read_results(store: StudyFolder) -> Results:
    """Read the record of a study and all of its runs.

    A line that is not a record is skipped and counted. A run without a folder is queued, and a run whose curve cannot
    be read has no lines. Raises `RecordError` if no study was run here, or its record cannot be read.
    """
    record = read_record(store)
    run_ids = sorted({run.run_id for run in record.runs})
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the parser releases the interpreter's lock
        known = dict(zip(run_ids, pool.map(lambda run_id: _read_run(store, run_id), run_ids), strict=True))
    return assemble(record, known, str(store.record))


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
    return Results(_complete(record, runs), runs)


def _complete(record: StudyRecord, runs: Iterable[RunCurve]) -> StudyRecord:
    """Fill in what only the runs of a program know: how many steps an arm has. It is the most that one run has.

    It stays 0 if no run knows it.
    """
    if all(arm.n_steps for arm in record.arms):
        return record
    most: dict[str, int] = {}
    for run in runs:
        most[run.arm] = max(most.get(run.arm, 0), run.status.n_steps)
    return replace(record, arms=tuple(replace(arm, n_steps=arm.n_steps or most.get(arm.arm, 0)) for arm in record.arms))


def _read_run(store: StudyFolder, run_id: str) -> Known:
    folder = store.run(run_id)
    status, unread = read_status(folder.status), ""  # before the curve, which grows until the end
    try:
        lines = read_columns(folder.curve)
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
    )


def device_of(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    device = manifest.get("device")
    return device if isinstance(device, Mapping) else {}
