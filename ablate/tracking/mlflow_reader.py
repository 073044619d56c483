"""MLflow as a place to read from: the runs of an experiment, and whole curves in bulk. Nothing is written there.

MLflow's client gives the history of one metric of one run a call. Where MLflow is a database, one SQL statement gives
those of all runs for a metric; a server is asked by several threads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate.errors import AblateError, RecordError, ResourceError, suggest
from ablate.tracking.mlflow_mirror import hide_secrets, redact
from ablate.tracking.mlflow_writer import HTTP_SETTINGS

LARGEST = 1.79e308
"""MLflow stores infinity as the largest float64, which databases may round."""

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_CONNECTIONS = 8  # to a server, at a time
_HISTORIES = """
SELECT metrics.run_uuid, metrics.step, metrics.timestamp, metrics.value, metrics.is_nan
FROM metrics JOIN runs ON runs.run_uuid = metrics.run_uuid
WHERE runs.experiment_id = :experiment AND metrics.key = :key
"""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class History:
    """A metric of a run, each array [point], steps strictly increasing: of a step logged twice, what came last.

    `times_s` are Unix times (s); `values` hold nan and the infinities as what they are.
    """

    steps: Floats
    times_s: Floats
    values: Floats

    @classmethod
    def of(cls, points: Sequence[tuple[float, float, float, float]]) -> History:
        """From points (step, time in ms, value, whether it is nan) in any order."""
        step_p, time_p, value_p, is_nan_p = np.array(points, np.float64).reshape(-1, 4).T
        order = np.lexsort((time_p, step_p))
        step_p, time_p, value_p, is_nan_p = step_p[order], time_p[order], value_p[order], is_nan_p[order]
        is_last = np.append(step_p[1:] != step_p[:-1], True)[: step_p.size] & (step_p >= 0)
        value_p = np.where(np.abs(value_p) >= LARGEST, np.copysign(np.inf, value_p), value_p)
        value_p = np.where(is_nan_p > 0, np.nan, value_p)
        return cls(step_p[is_last], time_p[is_last] / 1000, value_p[is_last])


@dataclass(frozen=True)
class MlflowRun:
    """A run as MLflow has it; `metrics` are the names of those that it logged, `start_s` a Unix time."""

    run_id: str
    status: str
    start_s: float
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: frozenset[str]


class MlflowReader:
    """Raises `ResourceError` from every call where MLflow cannot be reached, with no secret of its address in it."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._is_database = uri.startswith(_DATABASES)

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
            found[run_id][key] = History.of(points.get((run_id, key), ()))
        return found

    @cached_property
    def _client(self) -> Any:
        if self._is_database:
            self._check_database()
        elif "://" not in self.uri and self.uri != "databricks" and not Path(self.uri).is_dir():
            raise ResourceError(f"{self.uri}: this is no address: an MLflow database is sqlite:///{self.uri}")
        for name, value in HTTP_SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow.tracking import MlflowClient

        for name in ("alembic", "mlflow"):  # the import sets levels of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)
        return MlflowClient(tracking_uri=self.uri)

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
                start_s = (info.start_time or 0) / 1000
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
