"""The MLflow mirror that people browse: parameters by dotted path, curves, and the tags study, arm, seed, run_id.

The driver alone writes it, in a thread of its own and in batches, so training never waits for it. The curves on disk
are the truth; what MLflow did not take now, the next `ablate run` brings it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ablate.errors import RecordError
from ablate.tracking.curve import read_curve
from ablate.tracking.records import ArmRecord, RunRecord, State, StudyRecord
from ablate.tracking.store import Store, read_json, write_json

MAX_BATCH = 1000  # MLflow's own limit on metrics in one request
MAX_PARAMS = 100  # and on parameters
MAX_PARAM_LENGTH = 6000
FLUSH_S = 2.0
LOCK_POLL_S = 0.5
PATIENCE_S = 60.0  # how long the end of a study waits for the mirror
LAST_STEP = "ablate.last_step"

_RUN_STATES: Mapping[State, str] = {
    "finished": "FINISHED",
    "diverged": "FINISHED",
    "failed": "FAILED",
    "queued": "KILLED",
}


@dataclass(frozen=True)
class _Points:
    run_id: str
    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class _End:
    run_id: str
    state: State


class MlflowMirror:
    """Takes curve lines as they come and brings MLflow up to date.

    `behind` is None, or a sentence that says what is missing and why.
    """

    def __init__(self, uri: str, store: Store, record: StudyRecord) -> None:
        self.uri, self.store, self.record = uri, store, record
        self.behind: str | None = None
        self._queue: queue.Queue[_Points | _End | None] = queue.Queue()
        self._closing = threading.Event()
        self._arms = {arm.arm: arm for arm in record.arms}
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def add(self, run_id: str, records: Sequence[Mapping[str, Any]]) -> None:
        if records:
            self._queue.put(_Points(run_id, records))

    def end(self, run_id: str, state: State) -> None:
        self._queue.put(_End(run_id, state))

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Wait for what is queued, at most `patience_s`."""
        self._queue.put(None)
        self._closing.set()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            self.behind = f"MLflow at {redact(self.uri)} did not answer within {patience_s:.0f} s"

    def _work(self) -> None:
        try:
            with (self.store.path / ".mlflow.lock").open("w") as lock:
                if self._acquire(lock):
                    self._mirror()
        except Exception as error:  # noqa: BLE001 - whatever MLflow raises, training goes on
            self.behind = f"MLflow at {redact(self.uri)} took not everything ({type(error).__name__}: {error})"

    def _acquire(self, lock: TextIO) -> bool:
        """Of several drivers of one study one mirrors; what the others trained it finds on disk at its end."""
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if self._closing.is_set():
                    return False
                self._closing.wait(LOCK_POLL_S)

    def _mirror(self) -> None:
        writer = _Writer(self.uri, self.record)
        self._catch_up(writer)
        writer.drain(self._queue, {run.run_id: (run, self._arms[run.arm]) for run in self.record.runs}, self.store)
        self._catch_up(writer)
        write_json(_marker(self.store), {"complete": _mark(self.uri, self.record, self.store)})

    def _catch_up(self, writer: _Writer) -> None:
        for run in self.record.runs:
            writer.catch_up(run, self._arms[run.arm], self.store)


def is_complete(uri: str, store: Store, record: StudyRecord) -> bool:
    """Whether the mirror already has all that is on disk, told without loading MLflow."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return False
    try:
        return bool(read_json(_marker(store))["complete"] == _mark(uri, record, store))
    except (RecordError, KeyError, TypeError):
        return False


def redact(uri: str) -> str:
    """The address without a user's name and password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}"


def _marker(store: Store) -> Path:
    return store.path / "mlflow.json"


def _mark(uri: str, record: StudyRecord, store: Store) -> str:
    """Changes when the address, the runs, or any curve does."""
    sizes = []
    for run in record.runs:
        curve = store.run(run.run_id).curve
        sizes.append(
            [run.run_id, curve.stat().st_size if curve.exists() else 0, store.run(run.run_id).read_status().state]
        )
    return hashlib.sha256(json.dumps([uri, sizes]).encode()).hexdigest()


class _Writer:
    def __init__(self, uri: str, record: StudyRecord) -> None:
        if uri.startswith("sqlite:///"):
            self._prepare_sqlite(Path(uri.removeprefix("sqlite:///")))
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.tracking import MlflowClient

        for name in ("alembic", "mlflow"):  # the import sets levels of its own
            logging.getLogger(name).setLevel(logging.ERROR)

        self._metric, self._param, self._tag = Metric, Param, RunTag
        self.client = MlflowClient(tracking_uri=uri)
        self.record = record
        self.experiment = self._find_experiment(record.study)
        self.mlflow_ids: dict[str, str] = {}
        self.last_steps: dict[str, int] = {}
        self.states: dict[str, str] = {}
        for run in self._all_runs():
            run_id = run.data.tags.get("run_id")
            if run_id:
                self.mlflow_ids[run_id] = run.info.run_id
                self.last_steps[run_id] = int(run.data.tags.get(LAST_STEP, 0))
                self.states[run_id] = run.info.status

    @staticmethod
    def _prepare_sqlite(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path, timeout=30) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()

    def _find_experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return str(self.client.create_experiment(name))
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

    def catch_up(self, run: RunRecord, arm: ArmRecord, store: Store) -> None:
        """Bring what is on disk and not yet here."""
        folder = store.run(run.run_id)
        records = read_curve(folder.curve)
        if records:
            self.write(run, arm, store, records)
            self.end(run.run_id, folder.read_status().state)

    def write(self, run: RunRecord, arm: ArmRecord, store: Store, records: Sequence[Mapping[str, Any]]) -> None:
        if run.run_id not in self.mlflow_ids:
            self._create(run, arm, store)
        mlflow_id = self.mlflow_ids[run.run_id]
        start = self.client.get_run(mlflow_id).info.start_time if records else 0
        # Steps that a run repeats after a crash are already here, with the same values.
        new = [record for record in records if record["step"] > self.last_steps.get(run.run_id, 0)]
        batch: list[Any] = []
        for index, record in enumerate(new):
            moment = start + int(1000 * record.get("wall_s", 0.0))
            batch += [
                self._metric(key, float(value), moment, record["step"])
                for key, value in record.items()
                if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
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

    def drain(
        self, items: queue.Queue[_Points | _End | None], runs: Mapping[str, tuple[RunRecord, ArmRecord]], store: Store
    ) -> None:
        """Write what comes until the end is announced, gathering a few seconds of it into one request a run."""
        waiting: dict[str, list[Mapping[str, Any]]] = {}
        due = time.monotonic() + FLUSH_S

        def flush(run_ids: Sequence[str]) -> None:
            for run_id in run_ids:
                self.write(*runs[run_id], store, waiting.pop(run_id, []))

        while True:
            try:
                item = items.get(timeout=max(0.01, due - time.monotonic()))
            except queue.Empty:
                item = _Points("", [])
            match item:
                case None:
                    flush(list(waiting))
                    return
                case _Points(run_id=run_id, records=records) if run_id in runs:
                    waiting.setdefault(run_id, []).extend(records)
                case _End(run_id=run_id, state=state) if run_id in runs:
                    flush([run_id])
                    self.end(run_id, state)
                case _:
                    pass
            if time.monotonic() >= due:
                flush(list(waiting))
                due = time.monotonic() + FLUSH_S

    def _create(self, run: RunRecord, arm: ArmRecord, store: Store) -> None:
        tags = {
            "study": self.record.study,
            "arm": arm.arm,
            "seed": str(run.seed),
            "run_id": run.run_id,
            "baseline": arm.baseline,
        }
        created = self.client.create_run(self.experiment, tags=tags, run_name=f"{arm.arm},seed={run.seed}")
        mlflow_id = self.mlflow_ids[run.run_id] = created.info.run_id
        self.last_steps[run.run_id] = 0
        config = _flatten("", read_json(store.run(run.run_id).config))
        config |= {f"axis.{axis}": level for axis, level in arm.axes.items()}
        params = [self._param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in config.items()]
        for start in range(0, len(params), MAX_PARAMS):
            self.client.log_batch(mlflow_id, params=params[start : start + MAX_PARAMS])


def _flatten(prefix: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else key
        flat |= _flatten(path, value) if isinstance(value, Mapping) else {path: value}
    return flat
