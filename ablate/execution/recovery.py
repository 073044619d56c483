"""What a study survives: stuck and dead workers, a lack of memory, a full disk, and lost files."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablate.errors import RecordError
from ablate.execution.jobs import config_of
from ablate.execution.progress import Event, Observer
from ablate.formatting import count, format_count
from ablate.plan import Plan, Run
from ablate.plan.identity import canonical_json
from ablate.plan.setup import ModelSetup
from ablate.study.schema import TrainConfig
from ablate.tracking.cleaning import Keep, clean
from ablate.tracking.folders import MAX_NAMED, RunFolder, StudyFolder
from ablate.tracking.json_files import read_json, write_json
from ablate.tracking.study_record import Status

STUCK_S = 600.0  # longer than a compilation or a single step takes
MAX_ATTEMPTS = 3  # of a run whose worker dies without further progress

NO_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
NO_RIGHT = frozenset({errno.EACCES, errno.EPERM})
LATER = frozenset({"deterministic"})  # settings of `train` that older configs lack
EVERY_S = 10.0  # a look at a study of thousands of runs takes a while

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

    def end(self, status: Path) -> None:
        """Forget a run that has ended."""
        self._seen.pop(status, None)

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


def repair_runs(plan: Plan, store: StudyFolder, tell: Callable[[str], object], *, needs_weights: bool) -> None:
    """Check the files of every run that has ended, restore what can be restored, and `tell` the rest in sentences.

    A config is restored from the plan, and weights from the checkpoint if it still exists. No run is trained again for
    its weights, because another machine would not repeat its curve bit for bit. Missing weights may have been removed
    on purpose, so they are reported only if the caller `needs_weights`.
    """
    gone = []
    for run in {run.run_id: run for run in plan.runs}.values():
        folder = store.run(run.run_id)
        status = folder.read_status()
        if not folder.has_ended(status):
            continue
        for sentence in (*_repair_config(plan, run, folder), *_check_manifest(folder)):
            tell(sentence)
        if not run.arm.setup.trains_here or status.state != "finished":
            continue
        if (flaw := folder.weights_flaw()) and not _save_weights_again(folder, status):
            if folder.weights.is_symlink() or folder.weights.exists():
                tell(f"{flaw}; the curve is intact. To train the run again, remove its folder: {folder.path}")
            elif needs_weights:
                gone.append(str(folder.path))
    if gone:
        more = f" and {len(gone) - MAX_NAMED} more" if len(gone) > MAX_NAMED else ""
        tell(
            f"{count(len(gone), 'finished run')} without weights (cleaned away, merged without them, or lost); "
            f"the curves are intact. To train such a run again, remove its folder: {', '.join(gone[:MAX_NAMED])}{more}"
        )


def _repair_config(plan: Plan, run: Run, folder: RunFolder) -> Iterator[str]:
    expected = config_of(plan, run)
    passed_over = run.arm.setup.immaterial
    try:
        problem = (
            "" if _decisive(read_json(folder.config), passed_over) == _decisive(expected, passed_over) else "wrong"
        )
    except (RecordError, KeyError, TypeError, AttributeError, ValueError):
        problem = "missing or damaged"
    if not problem:
        return
    try:
        write_json(folder.config, expected)
        yield f"{folder.config} was {problem}; it was written again from the grid"
    except OSError as error:
        yield f"{folder.config}: {error.strerror}; move it away, and the same command writes it again from the grid"


def _decisive(config: Mapping[str, Any], passed_over: frozenset[str]) -> str:
    """The part of a config that decides the run's results, as text.

    Settings that came after some runs were recorded are left out at their defaults, as they are from run ids.
    """
    train = {
        key: value
        for key, value in config["train"].items()
        if key not in passed_over and not (key in LATER and value == TrainConfig.model_fields[key].default)
    }
    rest = {key: value for key, value in config.items() if key not in ("train", "data")}
    return canonical_json([rest, train, config["data"]["hash"]])


def _check_manifest(folder: RunFolder) -> Iterator[str]:
    """Report a lost manifest. It cannot be restored: only the training knew its device and versions."""
    try:
        problem = "" if isinstance(read_json(folder.manifest), dict) else f"{folder.manifest}: it is not a mapping"
    except RecordError as error:
        problem = str(error)
    if problem:
        yield (
            f"{problem}; reports name no device for this run, and it cannot be packed. "
            f"To train it again, remove its folder: {folder.path}"
        )


def _save_weights_again(folder: RunFolder, status: Status) -> bool:
    """Restore the weights from the final checkpoint, and return whether that worked."""
    if not folder.checkpoint.is_file():
        return False
    from ablate.training.checkpoint import read_checkpoint, write_weights
    from ablate_model.storage import separate

    try:
        state = read_checkpoint(folder.checkpoint)
        if state is None or status.curve is None or tuple(state["curve"]) != status.curve:
            return False
        write_weights(folder.weights, separate(state["model"]))
    except (RecordError, OSError, LookupError, TypeError, AttributeError):
        return False
    return True


class DiskBudget:
    """Removes weights by rule and budget when runs end, as `ablate clean` does. It passes all events on."""

    def __init__(self, store: StudyFolder, keep: Keep, budget_bytes: int | None, observe: Observer) -> None:
        self.store, self.keep, self.budget_bytes, self._observe = store, keep, budget_bytes, observe
        self._looked_at = -EVERY_S

    def observe(self, event: Event) -> None:
        self._observe(event)
        if event.kind == "ended" and time.monotonic() - self._looked_at >= EVERY_S:
            self.enforce()

    def enforce(self) -> None:
        if self.keep == "all" and self.budget_bytes is None:
            return
        self._looked_at = time.monotonic()
        try:
            removals = clean(self.store, self.keep, self.budget_bytes)
        except (OSError, RecordError) as error:  # the study continues, even if the disk fills up
            self._observe(Event("notice", text=f"no weights were removed: {error}"))
            return
        if removals:
            freed = format_count(sum(removal.n_bytes for removal in removals))
            self._observe(Event("notice", text=f"{freed}B of weights and leftovers removed ({removals[-1].reason})"))
