"""Read MLflow experiments as studies, whatever code logged them. Nothing is written to that MLflow.

A database returns whole metrics in bulk (`tracking/mlflow_database.py`). A server is asked through MLflow's client for
one metric of one run per request, by several threads.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ablate.analysis.results import Results
from ablate.errors import AblateError, RecordError, ResourceError, suggest
from ablate.imports.logged_run import History, LoggedRun
from ablate.imports.names import Names
from ablate.imports.study import read_study
from ablate.tracking import mlflow_database
from ablate.tracking.mlflow_client import (
    ALLOW_FOLDER,
    PARENT_ID,
    folder_of,
    hide_secrets,
    list_runs,
    open_client,
    redact,
)
from ablate.tracking.study_record import State

LARGEST = 1.79e308
"""MLflow stores infinity as the largest float64, which databases may round."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_CONNECTIONS = 8  # requests to a server at a time
_STATES: Mapping[str, State] = {
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "failed",
    "RUNNING": "running",
    "SCHEDULED": "queued",
}


def read_mlflow_study(reader: MlflowReader, experiment: str, names: Names, command: str = "") -> Results:
    """Build a study from the runs of an experiment; see `read_study`.

    Raises `RecordError`, naming what there is, if there is no such experiment, no run in it, no arm or no loss. Raises
    `ResourceError` if MLflow cannot be reached.
    """
    return read_study(experiment, reader.read_logged(experiment, names.of_curves), names, "MLflow", command)


class MlflowReader:
    """Reads experiments. Every method raises `ResourceError`, without secrets, if MLflow cannot be reached."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._is_database = uri.startswith(_DATABASES)

    def read_logged(self, experiment: str, keys: Sequence[str]) -> list[LoggedRun]:
        """Read the runs of an experiment from the oldest to the newest, each with those of `keys` that it logged.

        Raises `RecordError` if there is no such experiment.
        """
        experiment_id, runs = self.read_runs(experiment)
        histories = self.read_histories(experiment_id, runs, keys)
        return [replace(run, histories=histories[run.run_id]) for run in runs]

    def read_runs(self, experiment: str) -> tuple[str, tuple[LoggedRun, ...]]:
        """Read the id of an experiment and its runs, without deleted ones and without histories.

        Raises `RecordError` if there is no such experiment.
        """
        with self._explained():
            found = self._client.get_experiment_by_name(experiment)
            if found is not None and found.lifecycle_stage == "active":
                listed = list_runs(self._client, found.experiment_id, ["attributes.start_time ASC"])
                return found.experiment_id, tuple(map(_describe, listed))
            names = [known.name for known in self._client.search_experiments()]
        what = "there is no such experiment" if found is None else "the experiment was deleted"
        raise RecordError(f"{experiment!r}: {what} in {redact(self.uri)}{suggest(experiment, names)}")

    def read_histories(
        self, experiment_id: str, runs: Sequence[LoggedRun], keys: Sequence[str]
    ) -> Mapping[str, Mapping[str, History]]:
        """Read those of `keys` that each run logged, by run id and metric."""
        wanted = [(run.run_id, key) for run in runs for key in keys if key in run.logged]
        with self._explained():
            if self._is_database:
                logged = dict.fromkeys(key for _, key in wanted)
                points = mlflow_database.read_histories(self.uri, experiment_id, logged)
            else:
                points = self._ask_server(wanted)
        found: dict[str, dict[str, History]] = {run.run_id: {} for run in runs}
        for run_id, key in wanted:
            found[run_id][key] = read_points(points.get((run_id, key), ()))
        return found

    def _ask_server(self, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], list[Any]]:
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            histories = pool.map(lambda pair: self._client.get_metric_history(*pair), wanted)
            return {
                pair: [(p.step, p.timestamp, p.value, p.value != p.value) for p in history]
                for pair, history in zip(wanted, histories, strict=True)
            }

    @cached_property
    def _client(self) -> Any:
        folder = folder_of(self.uri)
        if folder is not None:
            self._check_folder(folder)
            with _folders_allowed():
                return open_client(folder.resolve().as_uri(), logging.CRITICAL)
        if self._is_database:
            mlflow_database.check_database(self.uri)
        return open_client(self.uri, logging.CRITICAL)

    def _check_folder(self, folder: Path) -> None:
        """Refuse a folder that is not MLflow's. MLflow would create one that is missing."""
        if folder.is_file() or (not folder.exists() and not self.uri.startswith("file:")):
            raise ResourceError(f"{self.uri}: this is not an address. An MLflow database is sqlite:///{folder}")
        if not folder.is_dir():
            raise ResourceError(f"{self.uri}: there is no such folder")
        if not any(folder.glob("*/meta.yaml")):
            raise ResourceError(f"{self.uri}: this folder is not MLflow's: it has no experiments")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except AblateError:
            raise
        except Exception as error:  # noqa: BLE001 - MLflow's errors, and those of databases, have no common root
            first = next(iter(str(error).strip().splitlines()), "")
            text = hide_secrets(f"{type(error).__name__}: {first}", self.uri)
            raise ResourceError(f"MLflow at {redact(self.uri)} cannot be read ({text})") from None


def read_points(points: Sequence[tuple[float, float, float, float]]) -> History:
    """Order points (step, time in ms, value, whether it is nan) as they were logged."""
    step_p, time_p, value_p, is_nan_p = np.array(points, np.float64).reshape(-1, 4).T
    value_p = np.where(np.abs(value_p) >= LARGEST, np.copysign(np.inf, value_p), value_p)
    value_p = np.where(is_nan_p > 0, np.nan, value_p)
    order = np.lexsort((step_p, time_p))
    return History(step_p[order], time_p[order] / 1000, value_p[order])


def _describe(run: Any) -> LoggedRun:
    """Convert a run of MLflow's client."""
    info, tags = run.info, run.data.tags
    return LoggedRun(
        info.run_id,
        _STATES.get(info.status, "failed"),
        {**run.data.params, **{name: text for name, text in tags.items() if text}},
        frozenset(run.data.metrics),
        {},
        info.start_time / 1000 if info.start_time else math.nan,
        info.status,
        tags.get("mlflow.source.git.commit"),
        tags.get(PARENT_ID),
    )


@contextmanager
def _folders_allowed() -> Iterator[None]:
    """Set the variable that MLflow needs to open a folder of files. The folder is only read."""
    before = os.environ.get(ALLOW_FOLDER)
    os.environ[ALLOW_FOLDER] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[ALLOW_FOLDER]
        else:
            os.environ[ALLOW_FOLDER] = before
