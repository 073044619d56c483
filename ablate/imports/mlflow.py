"""MLflow as a place to read from: the runs of an experiment, and whole curves in bulk. Nothing is written there.

MLflow's client gives the history of one metric of one run a call. Where MLflow is a database, one SQL statement gives
those of all runs for a metric; a server is asked by several threads.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ablate.analysis.results import Results
from ablate.errors import AblateError, RecordError, ResourceError, suggest
from ablate.imports.logged_run import History, LoggedRun
from ablate.imports.names import Names
from ablate.imports.study import read_study
from ablate.tracking.mlflow_mirror import ALLOW_FOLDER, folder_of, hide_secrets, redact
from ablate.tracking.mlflow_writer import HTTP_SETTINGS, PARENT_ID
from ablate.tracking.study_record import State

LARGEST = 1.79e308
"""MLflow stores infinity as the largest float64, which databases may round."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_CONNECTIONS = 8  # to a server, at a time
_HISTORIES = """
SELECT metrics.run_uuid, metrics.step, metrics.timestamp, metrics.value, metrics.is_nan
FROM metrics JOIN runs ON runs.run_uuid = metrics.run_uuid
WHERE runs.experiment_id = :experiment AND metrics.key = :key
"""

_STATES: Mapping[str, State] = {
    "FINISHED": "finished",
    "FAILED": "failed",
    "KILLED": "failed",
    "RUNNING": "running",
    "SCHEDULED": "queued",
}


@dataclass(frozen=True)
class MlflowRun:
    """A run as MLflow has it; `metrics` names those that it logged, `start_s` is a Unix time, nan if unknown."""

    run_id: str
    status: str
    start_s: float
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: frozenset[str]


@contextmanager
def _folders_allowed() -> Iterator[None]:
    """MLflow opens a folder of files only where a variable allows it. It is only read here."""
    before = os.environ.get(ALLOW_FOLDER)
    os.environ[ALLOW_FOLDER] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[ALLOW_FOLDER]
        else:
            os.environ[ALLOW_FOLDER] = before


def read_points(points: Sequence[tuple[float, float, float, float]]) -> History:
    """Points (step, time in ms, value, whether it is nan), in any order, as they were logged."""
    step_p, time_p, value_p, is_nan_p = np.array(points, np.float64).reshape(-1, 4).T
    value_p = np.where(np.abs(value_p) >= LARGEST, np.copysign(np.inf, value_p), value_p)
    value_p = np.where(is_nan_p > 0, np.nan, value_p)
    order = np.lexsort((step_p, time_p))
    return History(step_p[order], time_p[order] / 1000, value_p[order])


class MlflowReader:
    """Raises `ResourceError` from every call where MLflow cannot be reached, with no secret of its address in it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._is_database = uri.startswith(_DATABASES)

    def read_logged(self, experiment: str, keys: Sequence[str]) -> list[LoggedRun]:
        """The runs of an experiment from the oldest to the newest, with those of `keys` that each has.

        Raises `RecordError` where there is no such experiment.
        """
        experiment_id, runs = self.read_runs(experiment)
        histories = self.read_histories(experiment_id, runs, keys)
        return [
            LoggedRun(
                run.run_id,
                _STATES.get(run.status, "failed"),
                {**run.params, **{name: text for name, text in run.tags.items() if text}},
                run.metrics,
                histories[run.run_id],
                run.start_s,
                run.status,
                run.tags.get("mlflow.source.git.commit"),
                run.tags.get(PARENT_ID),
            )
            for run in runs
        ]

    def read_runs(self, experiment: str) -> tuple[str, tuple[MlflowRun, ...]]:
        """The id of the experiment, and its runs from the oldest to the newest, without deleted ones.

        Raises `RecordError` where there is no such experiment.
        """
        with self._explained():
            found = self._client.get_experiment_by_name(experiment)
            if found is not None and found.lifecycle_stage == "active":
                return found.experiment_id, tuple(self._list_runs(found.experiment_id))
            names = [known.name for known in self._client.search_experiments()]
        what = "there is no such experiment" if found is None else "the experiment was deleted"
        raise RecordError(f"{experiment!r}: {what} in {redact(self.uri)}{suggest(experiment, names)}")

    def read_histories(
        self, experiment_id: str, runs: Sequence[MlflowRun], keys: Sequence[str]
    ) -> Mapping[str, Mapping[str, History]]:
        """By run id and metric, whatever of `keys` each run has."""
        wanted = [(run.run_id, key) for run in runs for key in keys if key in run.metrics]
        with self._explained():
            points = self._query(experiment_id, wanted) if self._is_database else self._ask(wanted)
        found: dict[str, dict[str, History]] = {run.run_id: {} for run in runs}
        for run_id, key in wanted:
            found[run_id][key] = read_points(points.get((run_id, key), ()))
        return found

    @cached_property
    def _client(self) -> Any:
        folder = folder_of(self.uri)
        if self._is_database:
            self._check_database()
        elif folder is not None:
            self._check_folder(folder)
        for name, value in HTTP_SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        for name in ("alembic", "mlflow"):  # the import sets levels of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if folder is None:
            return MlflowClient(tracking_uri=self.uri)
        with _folders_allowed():
            return MlflowClient(tracking_uri=folder.resolve().as_uri())

    def _check_folder(self, folder: Path) -> None:
        """MLflow would make a folder that is not there."""
        if folder.is_file() or (not folder.exists() and not self.uri.startswith("file:")):
            raise ResourceError(f"{self.uri}: this is no address: an MLflow database is sqlite:///{folder}")
        if not folder.is_dir():
            raise ResourceError(f"{self.uri}: there is no such folder")
        if not any(folder.glob("*/meta.yaml")):
            raise ResourceError(f"{self.uri}: this folder is not MLflow's: it has no experiments")

    def _check_database(self) -> None:
        """MLflow would make a database that is not there, and its tables in one that is another program's."""
        path = Path(self.uri.removeprefix("sqlite:///").partition("?")[0])
        if self.uri.startswith("sqlite:") and not path.is_file():
            raise ResourceError(f"{redact(self.uri)}: there is no such file")
        with self._connect() as connection:
            from sqlalchemy import inspect

            if not inspect(connection).has_table("experiments"):
                raise ResourceError(f"{redact(self.uri)}: this database is not MLflow's: it has no experiments")

    def _connect(self) -> Any:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        return create_engine(self.uri, poolclass=NullPool).connect()

    def _list_runs(self, experiment_id: str) -> Iterator[MlflowRun]:
        token = None
        while True:
            page = self._client.search_runs(
                [experiment_id], max_results=1000, page_token=token, order_by=["attributes.start_time ASC"]
            )
            for run in page:
                info, data = run.info, run.data
                start_s = info.start_time / 1000 if info.start_time else math.nan
                yield MlflowRun(info.run_id, info.status, start_s, data.tags, data.params, frozenset(data.metrics))
            token = page.token
            if not token:
                return

    def _query(self, experiment_id: str, wanted: Sequence[tuple[str, str]]) -> _Points:
        from sqlalchemy import text

        found: _Points = {}
        with self._connect() as connection:
            for key in dict.fromkeys(key for _, key in wanted):
                parameters = {"experiment": int(experiment_id), "key": key}
                # From the driver's own cursor: SQLAlchemy's rows take longer than the query.
                for row in connection.execute(text(_HISTORIES), parameters).cursor.fetchall():
                    found.setdefault((row[0], key), []).append(row[1:])
        return found

    def _ask(self, wanted: Sequence[tuple[str, str]]) -> _Points:
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            histories = pool.map(lambda pair: self._client.get_metric_history(*pair), wanted)
            return {
                pair: [(p.step, p.timestamp, p.value, p.value != p.value) for p in history]
                for pair, history in zip(wanted, histories, strict=True)
            }

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


_Points = dict[tuple[str, str], list[Any]]


def read_mlflow_study(reader: MlflowReader, experiment: str, names: Names, command: str = "") -> Results:
    """Read the runs of an experiment as a study; see `read_study`.

    Raises `RecordError` where there is no such experiment, no run in it, no arm or no loss, naming what there is;
    `ResourceError` where MLflow cannot be reached.
    """
    return read_study(experiment, reader.read_logged(experiment, names.of_curves), names, "MLflow", command)
