"""How a failed run shows, and whether it is tried again: silence, deaths, a lack of memory, a full disk."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ablate.plan import Run
from ablate.plan.setup import ModelSetup
from ablate.tracking.folders import StudyFolder

STUCK_S = 600.0  # longer than a compilation or a single step takes
MAX_ATTEMPTS = 3  # of a run whose worker dies without further progress

NO_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
NO_RIGHT = frozenset({errno.EACCES, errno.EPERM})

Sign = tuple[int, int]


class Watchdog:
    """Notices that a status file is no longer replaced.

    It uses a monotonic clock and only looks at whether the file changes. It never compares the worker's clock with its
    own, so setting either clock kills no worker.
    """

    def __init__(self, patience_s: float = STUCK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_s, self.clock = patience_s, clock
        self._seen: dict[Path, tuple[Sign, float]] = {}

    def begin(self, status: Path) -> None:
        """Start watching a run: its worker has a place on the cluster."""
        self._seen[status] = (_sign(status), self.clock())

    def has_news(self, status: Path) -> bool:
        """Whether the file was replaced since the last look."""
        sign = _sign(status)
        if sign == self._seen[status][0]:
            return False
        self._seen[status] = (sign, self.clock())
        return True

    def is_stuck(self, status: Path) -> bool:
        return self.clock() - self._seen[status][1] > self.patience_s


def _sign(path: Path) -> Sign:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0)
    return (stat.st_ino, stat.st_mtime_ns)


def is_unwritable(error: BaseException, study: Path) -> bool:
    """Whether the error would end every other run too: the disk is full or read-only, or the study's folder is not
    writable."""
    if not isinstance(error, OSError):
        return False
    return error.errno in NO_DISK or (error.errno in NO_RIGHT and not os.access(study, os.W_OK))


class Retries:
    """Decides whether a run whose worker died is tried again, and with which micro-batch."""

    def __init__(self, store: StudyFolder, processes: int) -> None:
        self.store, self.processes = store, processes
        # For each run: the progress at its last deaths, their number, and the number of those after the run had begun.
        self._deaths: dict[str, tuple[int, int, int]] = {}

    def record_death(self, run: Run, *, is_memory_error: bool, has_begun: bool) -> str | None:
        """What happens next, in words; None if the run has used up its attempts without further progress.

        Ray reports when it kills a worker to free memory, but the kernel does not. So at a second death without
        further progress, a lack of memory is suspected, and the micro-batch is halved. This does not happen at
        the first death, because a run whose worker was just killed must continue bit for bit. A death before the run
        had begun does not count: a dead idle worker goes unnoticed until it is assigned a run.
        """
        checkpoint = self.store.run(run.run_id).checkpoint
        progress = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        before, deaths, suspicious = self._deaths.get(run.run_id, (progress, 0, 0))
        if progress != before:
            deaths, suspicious = 0, 0
        deaths, suspicious = deaths + 1, suspicious + has_begun
        self._deaths[run.run_id] = (progress, deaths, suspicious)
        if deaths >= MAX_ATTEMPTS:
            return None
        text = "its worker died; another one resumes from the last checkpoint"
        if is_memory_error or (has_begun and suspicious == MAX_ATTEMPTS - 1):
            text += self.halve_micro_batch(run, "its process was killed, perhaps because memory ran out")
        return text

    def halve_micro_batch(self, run: Run, reason: str) -> str:
        """Let a run continue with at most half as many sequences at once. The new number in words, or "" if none."""
        folder = self.store.run(run.run_id)
        status = folder.read_status()
        if not isinstance(run.arm.setup, ModelSetup):
            return ""
        train = run.arm.train
        if status.micro_batch_size:
            train = train.model_copy(update={"micro_batch_size": status.micro_batch_size})
        smaller = train.smaller_micro_batch(self.processes)
        if smaller is None:
            return ""
        notes = (*status.notes, f"{reason}: {smaller} sequences at once from here on")
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_status(replace(status, micro_batch_size=smaller, notes=notes))
        return f", {smaller} sequences at once"
