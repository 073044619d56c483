"""The MLflow mirror that people browse.

The driver alone writes it, in a thread of its own and in batches, so training never waits for it. The curves on disk
are the truth: whenever MLflow fails, the mirror begins anew a little later from them; what MLflow did not take until
the end, the next `ablate run` brings it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import queue
import re
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from ablate.errors import RecordError, ResourceError, suggest
from ablate.files import check_regular, open_regular
from ablate.tracking.folders import StudyFolder, read_json, write_json
from ablate.tracking.mlflow_writer import MlflowWriter, sqlite_path
from ablate.tracking.study_record import ArmRecord, RunRecord, State, StudyRecord

FLUSH_S = 2.0
LOCK_POLL_S = 0.5
RETRY_S = 5.0  # between two attempts to reach an MLflow that is away
PATIENCE_S = 60.0  # how long the end of a study waits for the mirror

ALLOW_FOLDER = "MLFLOW_ALLOW_FILE_STORE"
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "file", "databricks")


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

    `behind` is None, or a sentence that says what is missing and why. Where `find_mirror_obstacle` knows that MLflow
    accepts nothing, the mirror does nothing.
    """

    def __init__(self, uri: str, store: StudyFolder, record: StudyRecord) -> None:
        self.uri, self.store, self.record = uri, store, record
        self.behind: str | None = None
        self._is_off = bool(find_mirror_obstacle(uri))
        self._queue: queue.Queue[_Points | _End | None] = queue.Queue()
        self._closing = threading.Event()
        arms = {arm.arm: arm for arm in record.arms}
        self._runs: dict[str, tuple[RunRecord, ArmRecord]] = {run.run_id: (run, arms[run.arm]) for run in record.runs}
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def announce(self, run: RunRecord, arm: ArmRecord) -> None:
        """A run that the record did not have when the mirror was made."""
        if run.run_id not in self._runs:
            self._runs = {**self._runs, run.run_id: (run, arm)}
            self.record = replace(self.record, arms=(*self.record.arms, arm), runs=(*self.record.runs, run))

    def add(self, run_id: str, records: Sequence[Mapping[str, Any]]) -> None:
        if records and not self._is_off:
            self._queue.put(_Points(run_id, records))

    def end(self, run_id: str, state: State) -> None:
        if not self._is_off:
            self._queue.put(_End(run_id, state))

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Wait for what is queued, at most `patience_s`."""
        self._queue.put(None)
        self._closing.set()
        self._thread.join(patience_s)
        if self._thread.is_alive():
            self.behind = self.behind or f"MLflow at {redact(self.uri)} did not answer within {patience_s:.0f} s"

    def _work(self) -> None:
        if self._is_off:
            return
        try:
            with open_regular(self.store.path / ".mlflow.lock", "ab") as lock:
                if self._acquire(lock):
                    self._mirror_with_patience()
        except OSError as error:
            self.behind = f"the mirror into MLflow stopped: {error}"

    def _acquire(self, lock: BinaryIO) -> bool:
        """Of several drivers of one study one mirrors; what the others trained it finds on disk at its end."""
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if self._closing.is_set():
                    return False
                self._closing.wait(LOCK_POLL_S)

    def _mirror_with_patience(self) -> None:
        """Whatever MLflow raises, training goes on; one more attempt is made after the end of the study."""
        while True:
            last = self._closing.is_set()
            try:
                self._mirror()
            except Exception as error:  # noqa: BLE001 - MLflow's errors have no common root, and none may stop a study
                self.behind = f"MLflow at {redact(self.uri)} took not everything ({explain(error, self.uri)})"
            else:
                self.behind = None
                return
            if last:
                return
            self._closing.wait(RETRY_S)

    def _mirror(self) -> None:
        writer = MlflowWriter(self.uri, self.record)
        self._catch_up(writer)
        self._drain(writer)
        mark = _mark(self.uri, self.record, self.store)  # before: what another driver writes meanwhile may be missing
        self._catch_up(writer)
        write_json(_marker(self.store), {"complete": mark})

    def _catch_up(self, writer: MlflowWriter) -> None:
        for run, arm in self._runs.values():
            writer.catch_up(run, arm, self.store)

    def _drain(self, writer: MlflowWriter) -> None:
        """Write what comes until the end is announced, gathering a few seconds of it into one request a run."""
        waiting: dict[str, list[Mapping[str, Any]]] = {}
        due = time.monotonic() + FLUSH_S

        def flush(run_ids: Sequence[str]) -> None:
            for run_id in run_ids:
                writer.write(*self._runs[run_id], self.store, waiting.pop(run_id, []))

        while not (self._closing.is_set() and self._queue.empty()):
            try:
                item = self._queue.get(timeout=max(0.01, due - time.monotonic()))
            except queue.Empty:
                item = None
            match item:
                case _Points(run_id=run_id, records=records) if run_id in self._runs:
                    waiting.setdefault(run_id, []).extend(records)
                case _End(run_id=run_id, state=state) if run_id in self._runs:
                    flush([run_id])
                    writer.end(run_id, state)
                case _:
                    pass
            if time.monotonic() >= due:
                flush(list(waiting))
                due = time.monotonic() + FLUSH_S
        flush(list(waiting))


def is_complete(uri: str, store: StudyFolder, record: StudyRecord) -> bool:
    """Whether the mirror already has all that is on disk, told without loading MLflow."""
    database = sqlite_path(uri)
    if database is not None and (sqlite_problem(database) or not _knows(database, record.study)):
        return False
    try:
        return bool(read_json(_marker(store))["complete"] == _mark(uri, record, store))
    except (RecordError, KeyError, TypeError):
        return False


def check_tracking_uri(uri: str) -> None:
    """Whether MLflow is there, only time can tell; that it never can be is known from the scheme, without loading it.

    Raises `ResourceError` for a scheme that neither MLflow nor an installed plugin of its knows.
    """
    found = re.match(r"([a-z][a-z0-9.-]+)(\+[a-z0-9]+)?:", uri.lower())  # sqlite: or mysql+pymysql:; all else is a path
    legal = (*SCHEMES, *entry_points(group="mlflow.tracking_store").names)
    if found is not None and found[1] not in legal:
        raise ResourceError(
            f"the tracking URI {redact(uri)}: MLflow has no address of the kind {found[1]!r}{suggest(found[1], legal)}"
        )


def folder_of(uri: str) -> Path | None:
    """The folder of files that an address means; None for a database or a server."""
    if uri.startswith("file:"):
        return Path(unquote(uri.removeprefix("file:").removeprefix("//")))
    is_path = not re.match(r"[a-z][a-z0-9.+-]+:", uri.lower()) and uri not in SCHEMES
    return Path(uri) if is_path else None


def find_mirror_obstacle(uri: str) -> str:
    """Why MLflow accepts nothing at this address, or nothing. MLflow refuses folders unless a variable allows them."""
    if folder_of(uri) is None or os.environ.get(ALLOW_FOLDER, "").lower() in ("true", "1"):
        return ""
    return (
        f"nothing is mirrored to MLflow: {uri} is a folder of files, which MLflow no longer accepts. Name a database "
        f"(--tracking-uri sqlite:///mlflow.db; `mlflow migrate-filestore` copies a folder into one), or set "
        f"{ALLOW_FOLDER}=true"
    )


def redact(uri: str) -> str:
    """The address without a user's name and password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}" if separator else uri


def hide_secrets(text: str, uri: str) -> str:
    """The text without what `redact` leaves out of the address, in the forms in which an error may quote it."""
    rest = uri.partition("://")[2]
    credentials, _, place = rest.rpartition("@")
    secrets = [uri, rest, credentials, credentials.partition(":")[2], place.partition("?")[2]]
    for secret in secrets:
        for form in (secret, unquote(secret)):
            text = text.replace(form, redact(uri) if secret == uri else "***") if form else text
    return text


def explain(error: Exception, uri: str) -> str:
    """What MLflow raised, in one line without secrets; where its database is damaged, with what to do about it."""
    text = (hide_secrets(f"{type(error).__name__}: {error}", uri).splitlines() or [""])[0]
    database = sqlite_path(uri)
    if database is None or not (problem := sqlite_problem(database)):
        return text
    return f"{problem}; it is a copy of the curves, so nothing is lost: move it away, and `ablate run` writes it again"


def sqlite_problem(database: Path) -> str:
    """Why MLflow cannot use this file as its database on SQLite; empty where it can, or where there is no file."""
    try:
        check_regular(database)
        if not database.exists():
            return ""
        with closing(sqlite3.connect(database, timeout=1)) as connection:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except (sqlite3.Error, OSError) as error:
        is_busy = getattr(error, "sqlite_errorname", "") in ("SQLITE_BUSY", "SQLITE_LOCKED")
        return "" if is_busy else f"{database}: {getattr(error, 'strerror', None) or error}"
    if found != "ok":
        return f"{database}: {found.splitlines()[-1]}"
    return f"{database}: this is not a database of MLflow" if tables and "experiments" not in tables else ""


def _knows(database: Path, study: str) -> bool:
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=rw", uri=True, timeout=1)) as connection:
            return bool(connection.execute("SELECT 1 FROM experiments WHERE name = ?", (study,)).fetchone())
    except sqlite3.Error:
        return False


def _marker(store: StudyFolder) -> Path:
    return store.path / "mlflow.json"


def _mark(uri: str, record: StudyRecord, store: StudyFolder) -> str:
    """Changes when the address, the runs, or any curve does."""
    sizes = []
    for run in record.runs:
        folder, n_bytes = store.run(run.run_id), 0
        with suppress(OSError):
            n_bytes = folder.curve.stat().st_size
        sizes.append([run.run_id, n_bytes, folder.read_status().state])
    return hashlib.sha256(json.dumps([uri, sizes]).encode()).hexdigest()
