"""Evaluates the trained models of a study in processes on a Ray cluster, several at once."""

from __future__ import annotations

import fcntl
import os
import socket
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from rich.console import Console

from ablate.data import Corpus
from ablate.errors import AblateError, DataError, ResourceError
from ablate.evaluation.base import Row, Subject
from ablate.evaluation.choose import Choice, code_of
from ablate.evaluation.pending import Batch, Pending, find_pending, remove_snapshots
from ablate.evaluation.subject import find_tokenizer, find_training_corpus, has_task, make_subject
from ablate.execution.cluster import is_lost, start_cluster
from ablate.execution.interruption import Interruption, at_work
from ablate.execution.placement import Nodes, Placement, local_resources, place
from ablate.execution.progress import Evaluated
from ablate.execution.slots import POLL_S, cause_of
from ablate.files import open_regular
from ablate.formatting import name_error
from ablate.study.schema import Resources
from ablate.tracking.code import write_code
from ablate.tracking.evaluations import EvaluationRecord, EvaluationRow, write_evaluation
from ablate.tracking.folders import StudyFolder, read_json
from ablate.tracking.study_record import RunRecord
from ablate.training.precision import PRECISIONS, forbid_tf32
from ablate_model.own_code import LIBRARY
from ablate_model.own_modules import describe_error


@dataclass(frozen=True)
class Task:
    """One evaluation of a batch."""

    batch: Batch
    choice: Choice

    def __str__(self) -> str:
        run = self.batch.run
        return f"{self.choice.label} of {run.arm},seed={run.seed} at step {self.batch.step}"

    def record(self, rows: Sequence[EvaluationRow] = (), error: str = "", took_s: float = 0.0) -> EvaluationRecord:
        """The record of its result, or of its failure."""
        batch, evaluation = self.batch, self.choice.evaluation
        metrics = dict(evaluation.metrics)
        return EvaluationRecord(
            name=self.choice.name,
            label=self.choice.label,
            version=evaluation.version,
            weights=batch.sha256,
            step=batch.step,
            metrics={row.metric: metrics.get(row.metric) for row in rows},
            rows=tuple(rows),
            knobs=evaluation.model_dump(mode="json"),
            code=self.choice.code,
            curve=batch.curve,
            error=error,
            took_s=round(took_s, 3),
            ended_at=round(time.time(), 3),
        )

    def keep(self, store: StudyFolder, record: EvaluationRecord) -> None:
        """Write the record into the folder of the run."""
        write_evaluation(store.run(self.batch.run.run_id), self.choice.key(self.batch.sha256), record)


class EvaluationWorker:
    """Evaluates models in the precision that they were trained in. The driver makes it a Ray actor.

    `base` is the folder to which the paths of the study's data are relative. The model of the last task stays loaded.
    """

    def __init__(self, study: Path, corpus: Corpus | None, base: Path, placement: Placement) -> None:
        self.store, self.corpus = StudyFolder(study), corpus
        LIBRARY.trust(self.store.code)  # the driver wrote it, or was told to trust it
        torch.set_num_threads(placement.cpus)
        forbid_tf32()
        self.device = torch.device("cuda" if placement.gpus and torch.cuda.is_available() else "cpu")
        self.tokenizer = find_tokenizer(self.store, base)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._loaded: tuple[tuple[str, str], Subject] | None = None

    def ready(self) -> str:
        """Return the host and the process id."""
        return self.name

    def evaluate(self, task: Task) -> str:
        """Evaluate, write the result, and return the error of an evaluation that failed.

        Each result is on the disk when this returns. Raises `OSError` if it cannot be written.
        """
        started = time.monotonic()
        rows: list[EvaluationRow] = []
        error = ""
        try:
            torch.manual_seed(0)
            subject = self._load(task.batch)
            with self._precision(task.batch), torch.no_grad():
                rows = [_to_record(row) for row in task.choice.evaluation.evaluate(subject)]
        except AblateError as known:
            error = str(known)
        except Exception as raised:  # noqa: BLE001 - the error of one evaluation must not take the others down
            error = describe_error(raised) or traceback.format_exc()
        if task.choice.code or error:
            self._loaded = None  # the user's function may have changed the model
        task.keep(self.store, task.record(rows if not error else (), error, time.monotonic() - started))
        return error

    def _load(self, batch: Batch) -> Subject:
        key = batch.run.run_id, batch.weights
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # frees the memory first
            run = self.store.run(batch.run.run_id)
            self._loaded = key, make_subject(run, batch.weights, self.device, self.corpus, self.tokenizer)
        return self._loaded[1]

    def _precision(self, batch: Batch) -> torch.autocast:
        config = read_json(self.store.run(batch.run.run_id).config)
        return PRECISIONS[config["train"]["precision"]].context(self.device)  # type: ignore[return-value]


def _to_record(row: Row) -> EvaluationRow:
    value, n, note = row.value, row.n, row.note
    if value is not None and not isfinite(value):
        value, n, note = None, 0, note or f"it is {value}"
    error = row.standard_error if row.standard_error is not None and isfinite(row.standard_error) else None
    return EvaluationRow(row.metric, value, n, dict(row.within), error, row.chance, note)


Advance = Callable[[Task], object]


@dataclass(frozen=True)
class Request:
    """The evaluations to do, of which runs, and on which resources.

    `base` is the folder to which the paths of the study's data are relative. `address` is that of a running cluster.
    """

    store: StudyFolder
    runs: Sequence[RunRecord]
    choices: Sequence[Choice]
    base: Path
    resources: Resources
    workers: int | None = None
    address: str | None = None

    def place(self, nodes: Nodes, n_batches: int) -> Placement:
        """Give each model one process with at most one GPU, even if several processes trained it together."""
        gpus = self.resources.gpus if self.resources.gpus is None else min(self.resources.gpus, 1.0)
        return place(Resources(cpus=self.resources.cpus, gpus=gpus), nodes, self.workers, n_batches)


class Evaluator:
    """Hands evaluations to workers until all are done, or a signal or a full disk stops it.

    Each finished result is on the disk. A worker that dies fails only the evaluation that it was busy with.
    """

    def __init__(
        self, store: StudyFolder, corpus: Corpus | None, base: Path, placement: Placement, advance: Advance
    ) -> None:
        self.store, self.corpus, self.base, self.placement, self.advance = store, corpus, base, placement, advance
        self.done = Evaluated()
        self._workers: list[Any] = []
        self._left: list[deque[Task]] = []  # of the batch of each worker
        self._busy: dict[Any, tuple[int, Task]] = {}

    def evaluate(self, batches: Sequence[Batch], interruption: Interruption) -> Evaluated:
        """Evaluate. Raises `ResourceError` if the local Ray node died."""
        waiting = deque(batches)
        for _ in range(min(self.placement.slots, len(batches))):
            self._workers.append(self._hire())
            self._left.append(deque())
        while not self.done.halted and (waiting or any(self._left) or self._busy):
            if is_lost():
                raise ResourceError("the local Ray node died; the same command does what is left")
            if interruption.look():
                self.done.interrupted = True
                break
            self._hand_out(waiting)
            for finished in ray.wait(list(self._busy), num_returns=1, timeout=POLL_S)[0]:
                self._collect(finished)
        for worker in self._workers:
            ray.kill(worker)
        return self.done

    def _hire(self) -> Any:
        placed = ray.remote(EvaluationWorker).options(
            num_cpus=self.placement.cpus, num_gpus=self.placement.gpus or 0, max_restarts=0
        )
        return placed.remote(self.store.path.resolve(), self.corpus, self.base.resolve(), self.placement)

    def _hand_out(self, waiting: deque[Batch]) -> None:
        occupied = {seat for seat, _ in self._busy.values()}
        for seat, left in enumerate(self._left):
            if seat in occupied:
                continue
            if not left and waiting:
                batch = waiting.popleft()
                left.extend(Task(batch, choice) for choice in batch.choices)
            if left:
                task = left.popleft()
                self._busy[self._workers[seat].evaluate.remote(task)] = seat, task

    def _collect(self, finished: Any) -> None:
        seat, task = self._busy.pop(finished)
        try:
            error = ray.get(finished)
        except RayTaskError as raised:
            cause = cause_of(raised)
            error = name_error(str(cause))
            if isinstance(cause, OSError):
                self.done.halted = f"{cause.filename or self.store.path}: {cause.strerror or cause}"
        except RayError as death:
            error = f"its worker process died: {name_error(str(death))}"
            task.keep(self.store, task.record(error=error))
            ray.kill(self._workers[seat])
            self._workers[seat] = self._hire()
        self.done.n_done += 1
        if error:
            self.done.failed[str(task)] = name_error(error)
        self.advance(task)


@contextmanager
def alone(store: StudyFolder) -> Iterator[bool]:
    """Yield whether no other process evaluates the study, and keep others from it."""
    with open_regular(store.path / ".evaluations.lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def evaluate_runs(
    request: Request, console: Console, nodes: Nodes | None = None, interruption: Interruption | None = None
) -> Evaluated:
    """Do what is left of the evaluations, and show the progress.

    They use the cluster with these `nodes`. Without them, a cluster is started if there is work. Raises
    `ResourceError` if it has not the resources, or if the local Ray node dies.
    """
    store, choices = request.store, request.choices
    with alone(store) as is_alone:
        if not is_alone:
            text = f"{store.path.name}: another process evaluates it; the same command shows the results later"
            console.print(text, markup=False, highlight=False)
            return Evaluated()
        pending = find_pending(store, request.runs, choices)
        done = Evaluated()
        if pending.batches:
            for code in code_of(choices):
                write_code(store.code, code.files)
            if nodes is not None and interruption is not None:
                done = _evaluate(request, pending, console, nodes, interruption)
            else:
                cluster = start_cluster(request.address, local_resources(), store.ray_log)
                with at_work(store) as heard, cluster as found:
                    done = _evaluate(request, pending, console, found, heard)
        if any(choice.every for choice in choices):
            remove_snapshots(store, (run.run_id for run in request.runs), choices)
        done.refused = pending.refused
        return done


def _evaluate(
    request: Request, pending: Pending, console: Console, nodes: Nodes, interruption: Interruption
) -> Evaluated:
    from rich.progress import Progress

    store, corpus = request.store, None
    try:
        corpus = None if has_task(store) else find_training_corpus(store, request.base)
    except (DataError, ResourceError) as error:
        console.print(f"the corpus of the study is not here: {error}", markup=False, highlight=False)
    placement = request.place(nodes, len(pending.batches))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("evaluating", total=pending.n_evaluations)

        def advance(task: Task) -> None:
            progress.update(bar, advance=1, description=f"evaluated {task}")

        return Evaluator(store, corpus, request.base, placement, advance).evaluate(pending.batches, interruption)
