"""The MLflow mirror that people browse while a study trains.

Only the driver writes it, in its own thread, so training never waits for MLflow. The mirror copies the curves on disk.
When MLflow fails, the mirror starts over from them a little later. If lines are still missing at the end of the
study, the next `ablate run` adds them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from ablate.errors import RecordError
from ablate.files import open_regular
from ablate.tracking.evaluations import list_evaluations
from ablate.tracking.folders import StudyFolder
from ablate.tracking.json_files import read_json, write_json
from ablate.tracking.mlflow_client import find_mirror_obstacle, redact, sqlite_path
from ablate.tracking.mlflow_database import explain, find_sqlite_problem, has_experiment
from ablate.tracking.mlflow_writer import MlflowWriter
from ablate.tracking.study_record import ArmRecord, RunRecord, State, StudyRecord

CONTENT = "means"  # what this version mirrors beside runs; a study that an earlier one mirrored gets it too
FLUSH_S = 2.0  # the lines of this time are gathered into one request per run
LOCK_POLL_S = 0.5
RETRY_S = 5.0  # between two attempts to reach an MLflow that is away
PATIENCE_S = 60.0  # how long the end of a study waits for the mirror


class MlflowMirror:
    """Keeps MLflow up to date with the curves on disk.

    `behind` is None, or a sentence that says what is missing and why. The mirror does nothing at an address at which
    `find_mirror_obstacle` finds an obstacle.
    """

    def __init__(self, uri: str, store: StudyFolder, record: StudyRecord) -> None:
        self.uri, self.store, self.record = uri, store, record
        self.behind: str | None = None
        self._is_off = bool(find_mirror_obstacle(uri))
        # The driver's thread only adds to these three, and the mirror's thread only takes from the first.
        self._changed: set[str] = set()
        self._states: dict[str, State] = {}
        self._withdrawn: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-mirror", daemon=True)
        self._thread.start()

    def announce(self, run: RunRecord, arm: ArmRecord) -> None:
        """Add a run that the record did not have when the mirror was created."""
        if all(known.run_id != run.run_id for known in self.record.runs):
            is_new = all(known.arm != arm.arm for known in self.record.arms)
            arms = (*self.record.arms, arm) if is_new else self.record.arms
            self.record = replace(self.record, arms=arms, runs=(*self.record.runs, run))

    def withdraw(self, run_id: str) -> None:
        """Note that the study ends without this run. MLflow keeps it, but no mean and no state of the study counts it.

        This never waits.
        """
        self._withdrawn.add(run_id)

    def note_lines(self, run_id: str) -> None:
        """Note that the curve of a run has new lines. This never waits."""
        self._changed.add(run_id)

    def note_end(self, run_id: str, state: State) -> None:
        """Note that a run has ended, or was interrupted. This never waits."""
        self._states[run_id] = state
        self._changed.add(run_id)

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until MLflow has all lines, at most `patience_s` seconds."""
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
                    self._mirror_with_retries()
        except OSError as error:
            self.behind = f"the MLflow mirror stopped: {error}"

    def _acquire(self, lock: BinaryIO) -> bool:
        """Wait to be the one driver of the study that mirrors. It finds the lines of the others on disk."""
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if self._closing.is_set():
                    return False
                self._closing.wait(LOCK_POLL_S)

    def _mirror_with_retries(self) -> None:
        """Try until it works. After the end of the study, one more attempt is made."""
        while True:
            is_last = self._closing.is_set()
            try:
                self._mirror()
            except Exception as error:  # noqa: BLE001 - MLflow's errors have no common root, and none may stop a study
                self.behind = f"MLflow at {redact(self.uri)} did not accept all data ({explain(error, self.uri)})"
            else:
                self.behind = None
                return
            if is_last:
                return
            self._closing.wait(RETRY_S)

    def _mirror(self) -> None:
        writer = MlflowWriter(self.uri, self.record)
        # Trials of a search have one seed each. Arms that are trained until they are decided get more seeds.
        has_means, is_final = "space" not in self.record.tuning, self.record.seed_rule is None
        writer.begin_study()
        self._bring(writer, None)
        if has_means and is_final:
            writer.log_means()
        is_closing = False
        while not is_closing:
            is_closing = self._closing.wait(FLUSH_S)
            changed = {self._changed.pop() for _ in range(len(self._changed))}
            self._bring(writer, changed)
            if has_means and is_final and changed:
                writer.log_means(changed)
        needed = tuple(run for run in self.record.runs if run.run_id not in self._withdrawn)
        record = replace(self.record, runs=needed)
        # Taken first, because the last pass may miss lines that another driver writes meanwhile.
        fingerprint = _fingerprint(self.uri, record, self.store)
        self._bring(writer, None)
        writer.record = record
        if has_means:
            writer.log_means()
        writer.end_study({self.store.run(run.run_id).read_status().state for run in needed})
        write_json(_marker(self.store), {"complete": fingerprint})

    def _bring(self, writer: MlflowWriter, changed: Collection[str] | None) -> None:
        """Bring MLflow up to date with the runs that changed, or with all of them."""
        writer.record = self.record  # with the runs that were announced meanwhile
        arms = {arm.arm: arm for arm in self.record.arms}
        for run in {run.run_id: run for run in self.record.runs}.values():
            if changed is None or run.run_id in changed:
                state = self._states.get(run.run_id, None if changed is None else "running")
                writer.catch_up(run, arms[run.arm], self.store, state)


def is_complete(uri: str, store: StudyFolder, record: StudyRecord) -> bool:
    """Tell without loading MLflow whether the mirror has everything that is on disk."""
    database = sqlite_path(uri)
    if database is not None and (find_sqlite_problem(database) or not has_experiment(database, record.study)):
        return False
    try:
        return bool(read_json(_marker(store))["complete"] == _fingerprint(uri, record, store))
    except (RecordError, KeyError, TypeError):
        return False


def _marker(store: StudyFolder) -> Path:
    return store.path / "mlflow.json"


def _fingerprint(uri: str, record: StudyRecord, store: StudyFolder) -> str:
    """A hash that changes when the address, the runs, a state, the length of a curve or the evaluations do."""
    sizes = []
    for run in record.runs:
        folder, n_bytes = store.run(run.run_id), 0
        with suppress(OSError):
            n_bytes = folder.curve.stat().st_size
        evaluated = [path.stem for path in list_evaluations(folder.path)]
        sizes.append([run.run_id, n_bytes, folder.read_status().state, *evaluated])
    return hashlib.sha256(json.dumps([uri, sizes, CONTENT]).encode()).hexdigest()
