"""Evaluates the trained models of a study on a Ray cluster, several at once."""

from __future__ import annotations

import fcntl
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from rich.console import Console

from ablate.data import Corpus, Tokenizer
from ablate.errors import DataError, ResourceError
from ablate.evaluation.choose import Choice, code_of
from ablate.evaluation.pending import Batch, Pending, find_pending, remove_snapshots
from ablate.evaluation.subject import find_tokenizer, find_training_corpus, has_task
from ablate.execution.cluster import cause_of, is_lost, start_cluster
from ablate.execution.evaluation_worker import EvaluationWorker, Task
from ablate.execution.interruption import Interruption, at_work
from ablate.execution.nodes import start_courier
from ablate.execution.placement import Nodes, Placement, local_resources, place
from ablate.execution.progress import Evaluated
from ablate.execution.slots import POLL_S, clear_nodes
from ablate.files import open_regular
from ablate.formatting import name_error
from ablate.study.schema import Resources
from ablate.tracking.code import write_code
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import RunRecord

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
        self,
        store: StudyFolder,
        corpus: Corpus | None,
        tokenizer: Tokenizer | None,
        placement: Placement,
        advance: Advance,
        courier: Any = None,
    ) -> None:
        self.store, self.placement, self.advance, self.courier = store, placement, advance, courier
        self.corpus, self.tokenizer = corpus, tokenizer
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
        if self.courier is not None:
            clear_nodes(self._workers)
        for worker in self._workers:
            ray.kill(worker)
        return self.done

    def _hire(self) -> Any:
        placed = ray.remote(EvaluationWorker).options(
            num_cpus=self.placement.cpus, num_gpus=self.placement.gpus or 0, max_restarts=0
        )
        return placed.remote(self.store.path.resolve(), self.corpus, self.tokenizer, self.placement, self.courier)

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
            record = ray.get(finished)
            task.keep(self.store, record)
            error = record.error
        except RayTaskError as raised:
            error = name_error(str(cause_of(raised)))
        except OSError as full:
            error = name_error(str(full))
            self.done.halted = f"{full.filename or self.store.path}: {full.strerror or full}"
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
    request: Request,
    console: Console,
    nodes: Nodes | None = None,
    interruption: Interruption | None = None,
    courier: Any = None,
) -> Evaluated:
    """Do what is left of the evaluations, and show the progress.

    They use the cluster with these `nodes` and its `courier`. Without them, a cluster is started if there is work.
    Raises `ResourceError` if it has not the resources, or if the local Ray node dies.
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
                done = _evaluate(request, pending, console, nodes, interruption, courier)
            else:
                cluster = start_cluster(request.address, local_resources(), store.ray_log)
                with at_work(store) as heard, cluster as found, start_courier(store.path) as new:
                    done = _evaluate(request, pending, console, found, heard, new)
        if any(choice.every for choice in choices):
            remove_snapshots(store, (run.run_id for run in request.runs), choices)
        done.refused = pending.refused
        return done


def _evaluate(
    request: Request, pending: Pending, console: Console, nodes: Nodes, interruption: Interruption, courier: Any
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

        tokenizer = find_tokenizer(store, request.base)
        evaluator = Evaluator(store, corpus, tokenizer, placement, advance, courier)
        return evaluator.evaluate(pending.batches, interruption)
