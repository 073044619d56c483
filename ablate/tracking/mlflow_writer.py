"""Writes a study into its MLflow experiment: one run per training run, below one parent run for the study."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import Path
from statistics import fmean

from ablate.tracking.arm_labels import label_arms
from ablate.tracking.curve import CurveReader
from ablate.tracking.folders import StudyFolder
from ablate.tracking.mlflow_client import PARENT_ID, find_mirror_obstacle, list_runs, open_client, redact, sqlite_path
from ablate.tracking.mlflow_database import explain, prepare_sqlite
from ablate.tracking.mlflow_names import make_legal, name_final, name_mean
from ablate.tracking.mlflow_run import MirroredRun, log_points
from ablate.tracking.study_record import ENDED, ArmRecord, RunRecord, State, StudyRecord
from ablate.tracking.values import is_number

PARENT = "ablate.parent_of"  # a tag of the one run that stands for the study; its value is the study's name
REPORT_FOLDER = "report"  # of the artifacts
SAME = 1e-12  # relative difference between means of the same values that were added in another order

_DESCRIPTION = "mlflow.note.content"  # MLflow shows this tag as the description of a run
_KIND, _TRAINING = "mlflow.experimentKind", "custom_model_development"  # what the pages of an experiment show first


class MlflowWriter:
    """Writes the runs of a study into its experiment.

    A new writer finds out what MLflow already has, so it can replace another one at any time. `runs` is by run id.
    """

    def __init__(self, uri: str, record: StudyRecord) -> None:
        database, artifacts = sqlite_path(uri), None
        if database is not None:
            prepare_sqlite(database)
            # MLflow would put the artifacts into the working directory. A server has its own place for them.
            artifacts = (Path(os.path.realpath(database)).parent / "mlartifacts" / record.study).as_uri()
        self.client, self.record = open_client(uri), record
        self.experiment = self._find_experiment(artifacts)
        self.runs: dict[str, MirroredRun] = {}
        self._labelled: Sequence[ArmRecord] = ()  # the arms that have `_labels`
        self._labels: Mapping[str, str] = {}
        self.parent: str | None = None
        self._figures: dict[str, float] = {}  # the last value of each metric of the parent run
        self._readers: dict[str, CurveReader] = {}
        self._values: dict[str, dict[int, float]] = {}  # of the study's metric, by run and step
        self._whole: set[str] = set()  # runs that were trained to the end
        self._means: dict[tuple[str, ...], dict[int, float]] = {}  # of the runs of an arm, by step
        self._mean_keys: dict[tuple[str, ...], str] = {}  # the metric that has them in MLflow
        for run in list_runs(self.client, self.experiment):
            tags, run_id = run.data.tags, run.data.tags.get("run_id")
            if tags.get(PARENT) == record.study and self.parent is None:
                self.parent = run.info.run_id
                self._figures = dict(run.data.metrics)
            elif PARENT in tags or run_id in self.runs:  # created twice, because a server died before it could answer
                self.client.delete_run(run.info.run_id)
            elif run_id:
                self.runs[run_id] = MirroredRun(self.client, run)

    def _find_experiment(self, artifacts: str | None) -> str:
        found = self.client.get_experiment_by_name(self.record.study)
        if found is None:
            tags = {_KIND: _TRAINING, _DESCRIPTION: self.record.question}
            return str(self.client.create_experiment(self.record.study, artifact_location=artifacts, tags=tags))
        if found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def catch_up(self, run: RunRecord, arm: ArmRecord, store: StudyFolder, state: State | None = None) -> None:
        """Write the lines of the run's curve that MLflow does not have yet, and its state, by default that on disk."""
        folder, key = store.run(run.run_id), self.record.metric.name
        lines = self._readers.setdefault(run.run_id, CurveReader(folder.curve)).read()
        values = {line["step"]: float(line[key]) for line in lines if key in line and is_number(line[key])}
        self._values.setdefault(run.run_id, {}).update(values)
        known = self.runs.get(run.run_id)
        # A run that crashed repeats steps unchanged.
        if new := [line for line in lines if known is None or line["step"] > known.last_step]:
            known = known or self.create(run, arm)
            known.log_params(folder, arm.axes)
            known.log_lines(new)
        if known is not None:
            known.log_evaluations(folder)
            if state == "running" or (state == "finished" and run.run_id in self._whole):
                known.end(state)  # reading the status of an ended run checks its whole curve
                return
            status = folder.read_status()
            known.end(state or status.state)
            if status.state == "finished" and not status.is_cut:
                self._whole.add(run.run_id)

    def create(self, run: RunRecord, arm: ArmRecord) -> MirroredRun:
        """Create the run in MLflow, below the parent run if there is one."""
        tags = {
            "study": self.record.study,
            "arm": arm.arm,
            "seed": str(run.seed),
            "run_id": run.run_id,
            "baseline": arm.baseline,
            **({PARENT_ID: self.parent} if self.parent else {}),
        }
        name = f"{self._list_labels()[arm.arm]}, seed {run.seed}"
        created = MirroredRun(self.client, self.client.create_run(self.experiment, tags=tags, run_name=name))
        self.runs[run.run_id] = created
        return created

    def _list_labels(self) -> Mapping[str, str]:
        if self._labelled is not self.record.arms:  # it takes a while for thousands of arms
            self._labelled, self._labels = self.record.arms, label_arms(self.record.arms)
        return self._labels

    def adopt(self) -> str:
        """Put every run of the study below one parent run, which is created if necessary. Returns its MLflow id."""
        if self.parent is None:
            tags = {PARENT: self.record.study, _DESCRIPTION: self.record.question}
            created = self.client.create_run(self.experiment, tags=tags, run_name=self.record.study)
            self.parent = str(created.info.run_id)
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

    def log_means(self, changed: set[str] | None = None) -> None:
        """Log the mean of the study's metric over the seeds of each arm on the parent run, once per step that they all
        have. Once they were all trained to the end, log the mean there under the name that the report gives it.

        With `changed`, the ids of the runs that have news, only their arms are looked at.
        """
        runs: dict[str, list[str]] = {}
        for run in self.record.runs:
            runs.setdefault(run.arm, []).append(run.run_id)
        labels = self._list_labels()
        for label, run_ids in ((labels[arm], tuple(run_ids)) for arm, run_ids in runs.items()):
            if changed is not None and changed.isdisjoint(run_ids):
                continue
            curves = [self._values.get(run_id, {}) for run_id in run_ids]
            if not all(curves):
                continue
            means = self._means.setdefault(run_ids, {})
            new = [step for step in curves[0] if step not in means and all(step in curve for curve in curves)]
            means |= {step: fmean(curve[step] for curve in curves) for step in new}
            if new and run_ids not in self._mean_keys:
                self._mean_keys[run_ids], last_step = self._find_mean(label, len(run_ids), means)
                new = [step for step in new if step > last_step]
            if new:
                self._log(self._mean_keys[run_ids], {step: means[step] for step in new})
            ends = {next(reversed(curve)) for curve in curves}
            if self._whole.issuperset(run_ids) and len(ends) == 1:
                self.log_figures({name_final(self.record.metric, label): means[ends.pop()]})

    def _find_mean(self, label: str, n_seeds: int, means: Mapping[int, float]) -> tuple[str, int]:
        """Find the metric that has these means, and its last step; -1 if it has none yet.

        MLflow cannot replace points. If the arm had other runs before, their means have other values, and these ones
        get another metric.
        """
        for version in count(1):
            key = make_legal(name_mean(self.record.metric, label, n_seeds, version))
            points = self.client.get_metric_history(self.adopt(), key) if key in self._figures else []
            pairs = [(point.value, means[point.step]) for point in points if point.step in means]
            if not points or (pairs and all(math.isclose(*pair, rel_tol=SAME) for pair in pairs)):
                return key, max((point.step for point in points), default=-1)
        raise AssertionError("versions are infinite")

    def log_figures(self, figures: Mapping[str, float]) -> None:
        """Log figures of the study on the parent run, except those that it has already."""
        for key, value in {make_legal(name): value for name, value in figures.items()}.items():
            if not math.isclose(value, self._figures.get(key, math.nan), rel_tol=SAME):
                self._log(key, {0: value})

    def _log(self, key: str, values: Mapping[int, float]) -> None:
        """Log values of a metric of the parent run, by step."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        log_points(self.client, self.adopt(), [Metric(key, value, now, step) for step, value in values.items()])
        self._figures[key] = values[max(values)]


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
        is_new = writer.parent is None
        client, parent = writer.client, writer.adopt()
        if is_new:
            writer.end_study()
        for name, path in files.items():
            client.log_artifact(parent, str(path), Path(REPORT_FOLDER, name).parent.as_posix())
        writer.log_figures(figures)
        client.set_tag(parent, _DESCRIPTION, description)
        client.set_experiment_tag(writer.experiment, _DESCRIPTION, description)
    except Exception as error:  # noqa: BLE001 - MLflow's errors have no common root, and the report is written
        return f"MLflow at {redact(uri)} does not have the report ({explain(error, uri)})"
    return ""
