"""The folders of a study and its runs: where each file is, and how it is read and atomically written."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic_core import from_json

from ablate.errors import RecordError, suggest
from ablate.files import file_crc32, make_folder, open_regular
from ablate.formatting import name_error
from ablate.metrics import LOSS
from ablate.tracking.code import CODE
from ablate.tracking.curve import MOVE_AWAY, is_held, read_backwards
from ablate.tracking.json_files import read_json, write_json
from ablate.tracking.study_record import ENDED, RunRecord, State, Status, StudyRecord
from ablate.tracking.values import is_number
from ablate.tracking.weights import read_layout

MAX_NAMED = 12  # ids in a message
MAX_STATUS_BYTES = 2**16  # a longer one, with a long error, is read by `read_status`


@dataclass(frozen=True)
class RunFolder:
    """`<runs>/<study>/<run_id>/`."""

    STATUS: ClassVar[str] = "status.json"
    CURVE: ClassVar[str] = "curve.jsonl"

    path: Path

    @cached_property
    def config(self) -> Path:
        return self.path / "config.json"

    @cached_property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @cached_property
    def curve(self) -> Path:
        return self.path / self.CURVE

    @cached_property
    def status(self) -> Path:
        return self.path / self.STATUS

    @cached_property
    def checkpoint(self) -> Path:
        """Weights, optimizer state and step during training."""
        return self.path / "checkpoint.pt"

    @cached_property
    def weights(self) -> Path:
        """Only the weights, once the run has finished."""
        return self.path / "model.safetensors"

    def read_status(self) -> Status:
        """Read the state of the run and check it against its curve. It is `queued` if nothing was written yet.

        It is also `queued`, with a note, if `status.json` cannot be read, or if the run ended but its curve is missing
        or a different one. `ablate run` then trains it again.
        """
        if not os.path.lexists(self.status):
            return Status("queued")
        try:
            status = Status.from_dict(read_json(self.status), self.status.name)
        except RecordError as error:
            return Status("queued", notes=(f"{self.status.name} was damaged: {error}",))
        if flaw := self.curve_flaw(status):
            state: State = "queued" if status.state in ENDED else status.state
            notes = tuple(dict.fromkeys((*status.notes, flaw)))
            return replace(status, state=state, curve=None, notes=notes)
        return status

    def read_memory_bytes(self) -> int:
        """Read the peak memory of the run so far, without checking anything else; 0 if it is not known."""
        try:
            return int(read_json(self.status)["memory_bytes"])
        except (RecordError, LookupError, TypeError, ValueError):
            return 0

    def curve_flaw(self, status: Status) -> str:
        """Say why the curve does not belong to a run with this status, and what to do; empty if it does."""
        name, has_ended = self.curve.name, status.state in ENDED and status.curve is not None
        try:
            with open_regular(self.curve) as file:
                n_bytes, crc32 = status.curve or (0, 0)
                if not has_ended or (os.fstat(file.fileno()).st_size == n_bytes and file_crc32(file, n_bytes) == crc32):
                    return ""
                return f"{name} was not the one that the run ended with; `ablate run` trains it again"
        except FileNotFoundError:
            return f"{name} was missing; `ablate run` trains the run again" if has_ended else ""
        except OSError as error:
            return f"{name} could not be read: {error.strerror or error}; {MOVE_AWAY}"

    def has_ended(self, status: Status, *, cut_counts: bool = True) -> bool:
        """Tell whether nothing is left to train: it finished or diverged, and its curve is the one it ended with.

        A run that was stopped early counts only if `cut_counts`.
        """
        return status.state in ENDED and (cut_counts or not status.is_cut) and not self.curve_flaw(status)

    def shown_state(self, status: Status) -> str:
        """Return the state to show.

        That is `stopped early` if it finished before its last step, `stale` if it says running but no worker trains it,
        and `interrupted` if it waits to resume from its checkpoint.
        """
        if status.is_cut:
            return "stopped early"
        if status.is_stale() and not is_held(self.curve):
            return "stale"
        return "interrupted" if status.state == "queued" and self.checkpoint.exists() else status.state

    def last_validation(self, metric: str = LOSS.name) -> float | None:
        """Return the value of a metric at the last evaluation, by default the validation loss; None without one."""
        values = (record.get(metric) for record in read_backwards(self.curve, metric))
        return next((value for value in values if is_number(value)), None)

    @property
    def log(self) -> Path:
        """The output of a program."""
        return self.path / "log.txt"

    def weights_flaw(self) -> str:
        """Say in a sentence why the run has no usable weights; empty if it has. The numbers are not read."""
        if not os.path.lexists(self.weights):
            if os.path.lexists(self.log):
                return "it ran your own program, which keeps its own weights"
            state = self.read_status().state
            if state == "finished":
                return f"{self.weights.name} is gone: it was cleaned away, merged without weights, or lost"
            return f"it is {state}, and weights are kept only of runs that finished"
        try:
            read_layout(self.weights)
        except RecordError as error:
            return str(error)
        return ""

    def write_status(self, status: Status) -> None:
        """Write the status. While a run is running, losing a heartbeat does no harm, so the disk is not waited for."""
        write_json(self.status, status.to_dict(), durable=status.state != "running")


@dataclass(frozen=True)
class StudyFolder:
    """`<runs>/<study>/`."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / "study.json"

    @property
    def report(self) -> Path:
        """The folder of the study's pages, unless the user names another one."""
        return self.path / "report"

    @property
    def code(self) -> Path:
        """The user's files that the runs execute, one folder per version."""
        return self.path / CODE

    @property
    def mlflow_database(self) -> Path:
        return self.path.parent / "mlflow.db"

    @property
    def ray_log(self) -> Path:
        return self.path / "ray.log"

    @property
    def driver_lock(self) -> Path:
        """Every working driver holds a shared lock on this file."""
        return self.path / ".driver.lock"

    def run(self, run_id: str) -> RunFolder:
        return RunFolder(self.path / run_id)

    def list_names(self) -> set[str]:
        """The names of all files and folders in the study's, so of all runs that have begun."""
        return set(os.listdir(self.path)) if self.path.is_dir() else set()  # noqa: PTH208 - names, not paths

    def peek_state(self, run_id: str) -> str | None:
        """Return the state to show of a run that has ended, from its status and the length of its curve.

        It takes a fraction of the time of `RunFolder.read_status`, which also reads the curve. None if the run has not
        ended, or if something is wrong that only `read_status` can name.
        """
        place = f"{self.path}/{run_id}"
        try:
            descriptor = os.open(f"{place}/{RunFolder.STATUS}", os.O_RDONLY | os.O_NONBLOCK)
            try:
                status = from_json(os.read(descriptor, MAX_STATUS_BYTES))
            finally:
                os.close(descriptor)
            curve = status["curve"]
            # a Path would take as long as the rest
            is_whole = curve is None or curve[0] == os.stat(f"{place}/{RunFolder.CURVE}").st_size  # noqa: PTH116
            if status["state"] not in ENDED or not is_whole:
                return None
            is_cut = status["state"] == "finished" and status["step"] < status["n_steps"]
            return "stopped early" if is_cut else str(status["state"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def read_study(self) -> StudyRecord:
        """Read the record. Raises `RecordError` if no study was run here, or if the record cannot be read."""
        if not os.path.lexists(self.record):
            near = sorted(p.parent.name for p in self.path.parent.glob("*/study.json"))
            hint = suggest(self.path.name, near) or "; `ablate run GRID` trains one"
            raise RecordError(f"{self.path}: no study was run here{hint}")
        return StudyRecord.from_dict(read_json(self.record), self.record)

    def write_study(self, record: StudyRecord) -> None:
        make_folder(self.path)
        write_json(self.record, record.to_dict())

    def failed_runs(self, lost: Mapping[str, str] | None = None) -> Mapping[RunRecord, str]:
        """Return the error, in one line, of each run that failed, or that the driver has `lost` (by run id)."""
        lost, statuses = lost or {}, {run: self.run(run.run_id).read_status() for run in self.read_study().runs}
        errors = {run: name_error(status.error) for run, status in statuses.items() if status.state == "failed"}
        return errors | {run: lost[run.run_id] for run in statuses if run.run_id in lost and run not in errors}

    @property
    def whereabouts(self) -> str:
        """The option that a command needs besides the study's name to find it; empty for the default folder."""
        return f" --runs {self.path.parent}" if str(self.path.parent) != "runs" else ""

    def has_driver(self) -> bool:
        """Tell whether an `ablate run` is working on the study."""
        try:
            with open_regular(self.driver_lock) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def request_stop(self) -> None:
        """Ask every working driver of the study to save checkpoints and stop."""
        write_json(self.path / "stop.json", {"request": secrets.token_hex(8)})

    def read_stop_request(self) -> str:
        """Return the last request to stop. A driver stops when this differs from its value at the start."""
        try:
            return str(read_json(self.path / "stop.json")["request"])
        except (RecordError, KeyError, TypeError):
            return ""


def find_run(runs: Path, prefix: str) -> tuple[StudyFolder, str]:
    """Find the study and full id of the run whose id starts with `prefix`. Raises `RecordError` unless it is unique."""
    found: dict[str, StudyFolder] = {}
    known: list[str] = []
    unread: list[str] = []
    for record in sorted(runs.glob("*/study.json")):
        store = StudyFolder(record.parent)
        try:
            run_ids = [run.run_id for run in store.read_study().runs]
        except RecordError as error:  # the other studies can still be read
            unread.append(str(error))
            continue
        known += run_ids
        found |= {run_id: store for run_id in run_ids if run_id.startswith(prefix) and run_id not in found}
    if len(found) == 1:
        ((run_id, store),) = found.items()
        return store, run_id
    if found:
        raise RecordError(f"{prefix}: {len(found)} runs start with it: {', '.join(sorted(found)[:5])}")
    near = suggest(prefix, known) if len(known) <= MAX_NAMED else ""
    message = f"{prefix}: no run under {runs} starts with it{near}; ablate status STUDY lists them"
    raise RecordError("\n".join((message, *unread)))
