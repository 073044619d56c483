"""MLflow as a place to write to: parameters by dotted path, curves, and the tags study, arm, seed, run_id."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.errors import RecordError
from ablate.files import check_regular, make_folder
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder, read_json
from ablate.tracking.study_record import ArmRecord, RunRecord, State, StudyRecord, is_number

MAX_BATCH = 1000  # MLflow's own limit on metrics in one request
MAX_PARAMS = 100  # and on parameters
MAX_PARAM_LENGTH = 6000
LAST_STEP = "ablate.last_step"
PARENT = "ablate.parent_of"  # a tag of the one run that stands for the study; its value is the study's name
PARENT_ID = "mlflow.parentRunId"  # MLflow's own tag, by which its pages show runs below another
EVERY_LINE = "learning_rate"  # a key that every line has, as a finite number
# MLflow's own retries of a server that is away would take minutes; the mirror tries again itself. And MLflow prints an
# address for each run that ends there, on the standard output, which a program may read.
HTTP_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_RUN_STATES: Mapping[State, str] = {
    "finished": "FINISHED",
    "diverged": "FINISHED",
    "failed": "FAILED",
    "queued": "KILLED",
}


class MlflowWriter:
    """Writes runs into MLflow. Knows what MLflow already has, so it can be thrown away and made anew at any time."""

    def __init__(self, uri: str, record: StudyRecord) -> None:
        for name, value in HTTP_SETTINGS.items():
            os.environ.setdefault(name, value)
        database = sqlite_path(uri)
        if database is not None:
            self._prepare_sqlite(database)
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.tracking import MlflowClient

        for name in ("alembic", "mlflow"):  # the import sets levels of its own
            logging.getLogger(name).setLevel(logging.ERROR)

        self._metric, self._param, self._tag = Metric, Param, RunTag
        self.client = MlflowClient(tracking_uri=uri)
        self.record = record
        # Beside a database, where MLflow would take the working directory; a server has a place of its own.
        self._artifacts = None
        if database is not None:
            self._artifacts = (database.resolve().parent / "mlartifacts" / record.study).as_uri()
        self.experiment = self._find_experiment(record.study)
        self.mlflow_ids: dict[str, str] = {}
        self.last_steps: dict[str, int] = {}
        self.states: dict[str, str] = {}
        self.parent: str | None = None
        self._orphans: list[str] = []
        self._described: set[str] = set()
        for run in self._all_runs():
            run_id = run.data.tags.get("run_id")
            if run.data.tags.get(PARENT) == record.study:
                self.parent = run.info.run_id
            elif run_id in self.mlflow_ids:  # made twice, because a server died before it could answer
                self.client.delete_run(run.info.run_id)
            elif run_id:
                self.mlflow_ids[run_id] = run.info.run_id
                self.last_steps[run_id] = self._find_last_step(run)
                self.states[run_id] = run.info.status
                if PARENT_ID not in run.data.tags:
                    self._orphans.append(run.info.run_id)

    @staticmethod
    def _prepare_sqlite(path: Path) -> None:
        make_folder(path.parent)
        check_regular(path)
        with sqlite3.connect(path, timeout=30) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()

    def _find_experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return str(self.client.create_experiment(name, artifact_location=self._artifacts))
        if found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _all_runs(self) -> list[Any]:
        runs: list[Any] = []
        token = None
        while True:
            page = self.client.search_runs([self.experiment], max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs

    def _find_last_step(self, run: Any) -> int:
        """How far MLflow has the run. The tag can be one batch behind: a server that died between the points and it."""
        tagged = int(run.data.tags.get(LAST_STEP, 0))
        if run.info.status == "FINISHED" or EVERY_LINE not in run.data.metrics:
            return tagged
        history = self.client.get_metric_history(run.info.run_id, EVERY_LINE)
        return max(tagged, *(int(point.step) for point in history))

    def catch_up(self, run: RunRecord, arm: ArmRecord, store: StudyFolder) -> None:
        """Bring what is on disk and not yet here."""
        folder = store.run(run.run_id)
        records = read_curve(folder.curve)
        if records:
            self.write(run, arm, store, records)
            self.end(run.run_id, folder.read_status().state)

    def write(self, run: RunRecord, arm: ArmRecord, store: StudyFolder, records: Sequence[Mapping[str, Any]]) -> None:
        # Steps that a run repeats after a crash are already here, with the same values.
        new = [record for record in records if record["step"] > self.last_steps.get(run.run_id, 0)]
        if not new:
            return
        if run.run_id not in self.mlflow_ids:
            self._create(run, arm)
        mlflow_id = self.mlflow_ids[run.run_id]
        if run.run_id not in self._described:
            self._describe(mlflow_id, run, arm, store)
        start = self.client.get_run(mlflow_id).info.start_time
        batch: list[Any] = []
        for index, record in enumerate(new):
            seconds = record.get("wall_s")
            moment = start + (int(1000 * seconds) if seconds is not None and is_number(seconds) else 0)
            batch += [
                self._metric(key, float(value), moment, record["step"])
                for key, value in record.items()
                if key != "step" and is_number(value)
            ]
            following = len(new[index + 1]) if index + 1 < len(new) else MAX_BATCH
            if len(batch) + following > MAX_BATCH:
                self.client.log_batch(
                    mlflow_id, metrics=batch[:MAX_BATCH], tags=[self._tag(LAST_STEP, str(record["step"]))]
                )
                self.last_steps[run.run_id] = record["step"]
                batch = []

    def end(self, run_id: str, state: State) -> None:
        status = _RUN_STATES.get(state)
        if status is not None and run_id in self.mlflow_ids and self.states.get(run_id) != status:
            mlflow_id = self.mlflow_ids[run_id]
            self.client.set_tag(mlflow_id, "state", state)
            self.client.set_terminated(mlflow_id, status)
            self.states[run_id] = status

    def adopt(self) -> str:
        """The MLflow id of the study's parent run, made where there is none, with every run of the study below it."""
        if self.parent is None:
            name = self.record.study
            self.parent = str(self.client.create_run(self.experiment, tags={PARENT: name}, run_name=name).info.run_id)
            self.client.set_terminated(self.parent, "FINISHED")
        while self._orphans:
            self.client.set_tag(self._orphans[-1], PARENT_ID, self.parent)
            self._orphans.pop()
        return self.parent

    def log_figures(self, mlflow_id: str, figures: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(name, value, now, 0) for name, value in figures.items()]
        for start in range(0, len(metrics), MAX_BATCH):
            self.client.log_batch(mlflow_id, metrics=metrics[start : start + MAX_BATCH])

    def _create(self, run: RunRecord, arm: ArmRecord) -> None:
        tags = {
            "study": self.record.study,
            "arm": arm.arm,
            "seed": str(run.seed),
            "run_id": run.run_id,
            "baseline": arm.baseline,
            **({PARENT_ID: self.parent} if self.parent else {}),
        }
        created = self.client.create_run(self.experiment, tags=tags, run_name=f"{arm.arm},seed={run.seed}")
        self.mlflow_ids[run.run_id] = created.info.run_id
        self.last_steps[run.run_id] = 0
        if not self.parent:
            self._orphans.append(created.info.run_id)

    def _describe(self, mlflow_id: str, run: RunRecord, arm: ArmRecord, store: StudyFolder) -> None:
        """Parameters; the same ones again do no harm, and a server may have died between two requests."""
        try:
            config = _flatten("", read_json(store.run(run.run_id).config))
        except (RecordError, AttributeError):  # missing or damaged: `ablate run` writes it again and says so
            config = {}
        config |= {f"axis.{axis}": level for axis, level in arm.axes.items()}
        params = [self._param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in config.items()]
        for start in range(0, len(params), MAX_PARAMS):
            self.client.log_batch(mlflow_id, params=params[start : start + MAX_PARAMS])
        self._described.add(run.run_id)


def sqlite_path(uri: str) -> Path | None:
    """The file of a database of SQLite; None for any other address."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _flatten(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else key
        flat |= _flatten(path, value) if isinstance(value, Mapping) else {path: value}
    return flat
