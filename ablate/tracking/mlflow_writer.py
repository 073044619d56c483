"""Runs, curves and reports written to MLflow, all through its public client."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.errors import RecordError
from ablate.tracking.arm_labels import label_arms
from ablate.tracking.curve import CurveReader
from ablate.tracking.evaluations import EvaluationRow, list_evaluations, read_evaluation
from ablate.tracking.folders import RunFolder, StudyFolder, read_json
from ablate.tracking.mlflow_client import PARENT_ID, find_mirror_obstacle, list_runs, open_client, redact, sqlite_path
from ablate.tracking.mlflow_database import explain, prepare_sqlite
from ablate.tracking.mlflow_names import EVERY_LINE, make_legal, name_metric
from ablate.tracking.study_record import ENDED, ArmRecord, RunRecord, State, StudyRecord, is_number

MAX_BATCH = 1000  # MLflow's limit on metrics per request
MAX_PARAMS = 100  # MLflow's limit on parameters per request
MAX_PARAM_LENGTH = 6000
LAST_STEP = "ablate.last_step"
EVALUATED = "ablate.evaluated."  # the beginning of a tag; the key of the result follows
PARENT = "ablate.parent_of"  # a tag of the one run that stands for the study; its value is the study's name
REPORT_FOLDER = "report"  # of the artifacts

_DESCRIPTION = "mlflow.note.content"  # MLflow shows this tag as the description of a run
_KIND, _TRAINING = "mlflow.experimentKind", "custom_model_development"  # what the pages of an experiment show first
_STATUS_OF_STATE: Mapping[State, str] = {
    "finished": "FINISHED",
    "diverged": "FINISHED",
    "failed": "FAILED",
    "queued": "KILLED",
}


@dataclass
class MirroredRun:
    """What MLflow has of a run. `start_ms` is a Unix time."""

    mlflow_id: str
    start_ms: int
    last_step: int = -1  # a program may begin with an evaluation at step 0
    status: str = "RUNNING"
    has_parent: bool = False
    has_params: bool = False
    keeps_names: bool = False  # of metrics: a program's are its own, and earlier versions wrote those of the curve
    evaluated: set[str] = field(default_factory=set)  # the keys of the results of evaluations


class MlflowWriter:
    """Writes the runs of a study into its experiment.

    A new writer finds out what MLflow already has, so it can replace another one at any time. `runs` is by run id.
    """

    def __init__(self, uri: str, record: StudyRecord) -> None:
        database, artifacts = sqlite_path(uri), None
        if database is not None:
            prepare_sqlite(database)
            # MLflow would put the artifacts into the working directory. A server has its own place for them.
            artifacts = (database.resolve().parent / "mlartifacts" / record.study).as_uri()
        self.client, self.record = open_client(uri), record
        self.experiment = self._find_experiment(artifacts)
        self.runs: dict[str, MirroredRun] = {}
        self.parent: str | None = None
        self._readers: dict[str, CurveReader] = {}
        for run in list_runs(self.client, self.experiment):
            tags, info = run.data.tags, run.info
            run_id = tags.get("run_id")
            if tags.get(PARENT) == record.study and self.parent is None:
                self.parent = info.run_id
            elif PARENT in tags or run_id in self.runs:  # created twice, because a server died before it could answer
                self.client.delete_run(info.run_id)
            elif run_id:
                last_step = self._find_last_step(run)
                evaluated = {tag.removeprefix(EVALUATED) for tag in tags if tag.startswith(EVALUATED)}
                has_parent = PARENT_ID in tags
                keeps_names = any(key in run.data.metrics for key in EVERY_LINE)
                self.runs[run_id] = MirroredRun(
                    info.run_id,
                    info.start_time,
                    last_step,
                    info.status,
                    has_parent=has_parent,
                    evaluated=evaluated,
                    keeps_names=keeps_names,
                )

    def _find_experiment(self, artifacts: str | None) -> str:
        found = self.client.get_experiment_by_name(self.record.study)
        if found is None:
            tags = {_KIND: _TRAINING, _DESCRIPTION: self.record.question}
            return str(self.client.create_experiment(self.record.study, artifact_location=artifacts, tags=tags))
        if found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find_last_step(self, run: Any) -> int:
        """Find how far MLflow has the run. The tag is one batch behind if a server died before writing it."""
        tagged = int(run.data.tags.get(LAST_STEP, -1))
        names = (*EVERY_LINE, *map(name_metric, EVERY_LINE))
        known = next((name for name in names if name in run.data.metrics), None)
        if run.info.status == "FINISHED" or known is None:
            return tagged
        history = self.client.get_metric_history(run.info.run_id, known)
        return max(tagged, *(int(point.step) for point in history))

    def catch_up(self, run: RunRecord, arm: ArmRecord, store: StudyFolder, state: State | None = None) -> None:
        """Write the lines of the run's curve that MLflow does not have yet, and its state, by default that on disk."""
        folder = store.run(run.run_id)
        self.write(run, arm, store, self._readers.setdefault(run.run_id, CurveReader(folder.curve)).read())
        if run.run_id in self.runs:
            self._log_evaluations(self.runs[run.run_id], folder)
            self._end(self.runs[run.run_id], state or folder.read_status().state)

    def _log_evaluations(self, known: MirroredRun, folder: RunFolder) -> None:
        """Log the results that MLflow does not have yet as `eval/NAME/METRIC`, with the levels of the cell after it. A
        tag per result remembers them."""
        from mlflow.entities import Metric, RunTag

        for path in list_evaluations(folder.path):
            if path.stem in known.evaluated:
                continue
            try:
                result = read_evaluation(path)
            except RecordError:
                continue
            if result.error:
                continue  # the next attempt replaces it
            moment = int(1000 * result.ended_at) or known.start_ms
            metrics = [
                Metric(make_legal(name_result(result.label, row)), row.value, moment, result.step)
                for row in result.rows
                if row.value is not None
            ]
            for start in range(0, len(metrics), MAX_BATCH):
                self.client.log_batch(known.mlflow_id, metrics=metrics[start : start + MAX_BATCH])
            self.client.log_batch(known.mlflow_id, tags=[RunTag(f"{EVALUATED}{path.stem}", result.label)])
            known.evaluated.add(path.stem)

    def write(self, run: RunRecord, arm: ArmRecord, store: StudyFolder, records: Sequence[Mapping[str, Any]]) -> None:
        """Write lines in batches. Steps that MLflow has are skipped: a run that crashed repeats them unchanged."""
        known = self.runs.get(run.run_id)
        new = [record for record in records if record["step"] > (known.last_step if known else -1)]
        if not new:
            return
        known = known or self._create(run, arm)
        if not known.has_params:
            self._log_params(known, run, arm, store)
        from mlflow.entities import RunTag

        name = make_legal if known.keeps_names else name_metric
        for metrics, step in _gather(new, known.start_ms, name):
            self.client.log_batch(known.mlflow_id, metrics=metrics, tags=[RunTag(LAST_STEP, str(step))])
            known.last_step = step

    def _end(self, known: MirroredRun, state: State) -> None:
        """Set the status of a run, unless it is still training."""
        status = _STATUS_OF_STATE.get(state)
        if status is not None and known.status != status:
            self.client.set_tag(known.mlflow_id, "state", state)
            self.client.set_terminated(known.mlflow_id, status)
            known.status = status

    def adopt(self) -> str:
        """Put every run of the study below one parent run, which is created if necessary. Returns its MLflow id."""
        if self.parent is None:
            tags = {PARENT: self.record.study, _DESCRIPTION: self.record.question}
            self.parent = str(
                self.client.create_run(self.experiment, tags=tags, run_name=self.record.study).info.run_id
            )
        for run in self.runs.values():
            if not run.has_parent:
                self.client.set_tag(run.mlflow_id, PARENT_ID, self.parent)
                run.has_parent = True
        return self.parent

    def begin_study(self) -> None:
        """Let the parent run begin, or go on. It lasts until `end_study`."""
        self.client.update_run(self.adopt(), status="RUNNING")

    def end_study(self, states: Collection[State] = ()) -> None:
        """End the parent run, whose status follows from the states of the runs."""
        status = "FINISHED" if ENDED.issuperset(states) else "FAILED" if "failed" in states else "KILLED"
        self.client.set_terminated(self.adopt(), status)

    def _create(self, run: RunRecord, arm: ArmRecord) -> MirroredRun:
        tags = {
            "study": self.record.study,
            "arm": arm.arm,
            "seed": str(run.seed),
            "run_id": run.run_id,
            "baseline": arm.baseline,
            **({PARENT_ID: self.parent} if self.parent else {}),
        }
        info = self.client.create_run(
            self.experiment, tags=tags, run_name=f"{label_arms(self.record.arms)[arm.arm]}, seed {run.seed}"
        ).info
        known = MirroredRun(info.run_id, info.start_time, has_parent=bool(self.parent))
        self.runs[run.run_id] = known
        return known

    def _log_params(self, known: MirroredRun, run: RunRecord, arm: ArmRecord, store: StudyFolder) -> None:
        """Log the parameters by dotted path. MLflow accepts the same ones again, as after a server died in between."""
        from mlflow.entities import Param

        try:
            config = _flatten("", read_json(store.run(run.run_id).config))
        except (RecordError, AttributeError):  # missing or damaged; `ablate run` reports it and writes it again
            config = {}
        known.keeps_names |= any(key.startswith("program.") for key in config)
        config |= {f"axis.{axis}": level for axis, level in arm.axes.items()}
        params = [Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in config.items()]
        for start in range(0, len(params), MAX_PARAMS):
            self.client.log_batch(known.mlflow_id, params=params[start : start + MAX_PARAMS])
        known.has_params = True


def name_result(label: str, row: EvaluationRow) -> str:
    """The name of a metric: eval/needle/accuracy/needles 2/depth 0.5."""
    return "/".join(("eval", label, row.metric, *(f"{name} {level}" for name, level in row.within.items())))


def publish(
    uri: str, record: StudyRecord, files: Mapping[str, Path], figures: Mapping[str, float], description: str
) -> str:
    """Attach a report to the parent run of its study, and return the reason if MLflow does not accept it.

    `files` are attached by their path below `report`, `figures` become metrics. The parent run is created if necessary,
    and every run of the study becomes its child.
    """
    if obstacle := find_mirror_obstacle(uri):
        return obstacle
    try:
        writer = MlflowWriter(uri, record)
        from mlflow.entities import Metric

        is_new = writer.parent is None
        client, parent, now = writer.client, writer.adopt(), int(1000 * time.time())
        if is_new:
            writer.end_study()
        for name, path in files.items():
            client.log_artifact(parent, str(path), Path(REPORT_FOLDER, name).parent.as_posix())
        metrics = [Metric(make_legal(name), value, now, 0) for name, value in figures.items()]
        for start in range(0, len(metrics), MAX_BATCH):
            client.log_batch(parent, metrics=metrics[start : start + MAX_BATCH])
        client.set_tag(parent, _DESCRIPTION, description)
        client.set_experiment_tag(writer.experiment, _DESCRIPTION, description)
    except Exception as error:  # noqa: BLE001 - MLflow's errors have no common root, and the report is written
        return f"MLflow at {redact(uri)} does not have the report ({explain(error, uri)})"
    return ""


def _gather(
    records: Sequence[Mapping[str, Any]], start_ms: int, name: Callable[[str], str]
) -> Iterator[tuple[list[Any], int]]:
    """Yield the metrics of as many whole lines as one request takes, and the step of the last line."""
    from mlflow.entities import Metric

    batch: list[Any] = []
    step = 0
    for record in records:
        seconds = record.get("wall_s")
        moment = start_ms + (int(1000 * seconds) if seconds is not None and is_number(seconds) else 0)
        numbers = {key: float(value) for key, value in record.items() if key != "step" and is_number(value)}
        named = {name(key): value for key, value in numbers.items()}
        metrics = [Metric(key, value, moment, record["step"]) for key, value in named.items()][:MAX_BATCH]
        if len(batch) + len(metrics) > MAX_BATCH:
            yield batch, step
            batch = []
        batch += metrics
        step = record["step"]
    yield batch, step


def _flatten(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else key
        flat |= _flatten(path, value) if isinstance(value, Mapping) else {path: value}
    return flat
