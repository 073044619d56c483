"""A place on the cluster where one run at a time is trained."""

from __future__ import annotations

import os
import secrets
import signal
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ablate.data import Corpus
from ablate.execution.failures import is_out_of_memory
from ablate.execution.jobs import Job
from ablate.execution.placement import Placement
from ablate.execution.worker import Result, RunWorker, Seat
from ablate.plan import Run

HOST = socket.gethostname()
GRACE_S = 3.0  # how long the others of a group have to say what they died of


class Slot:
    """The worker of one run at a time, or the several that train it together, rank 0 first, and what they do.

    Without workers while the cluster has no room for them. A group's processes have their share of the cluster by a
    placement group, all of them or none.
    """

    def __init__(self, placement: Placement, study: Path, corpus: Corpus, worker_class: type[RunWorker]) -> None:
        self.placement, self.study, self.corpus, self.worker_class = placement, study, corpus, worker_class
        self.run: Run | None = None
        self.tasks: dict[Any, int] = {}
        self.workers: list[Any] = []
        self._ended: dict[int, Result] = {}
        self._errors: list[RayError] = []
        self._ready: list[Any] = []
        self._names: Sequence[str] = ()
        self._group: PlacementGroup | None = None
        self._meeting: Path | None = None

    def staff(self) -> None:
        """Ask the cluster for workers. They are ready once there is room for them."""
        placement = self.placement
        seats: list[Seat | None] = [None]
        if placement.processes > 1:
            bundle = {"CPU": placement.cpus} | ({"GPU": placement.gpus} if placement.gpus else {})
            self._group = placement_group([bundle] * placement.processes, strategy="PACK")
            meeting = self._meeting = self.study / f".meeting-{secrets.token_hex(8)}"
            seats = [Seat(rank, placement.processes, meeting) for rank in range(placement.processes)]
        actor = ray.remote(self.worker_class)
        for seat in seats:
            strategy = "DEFAULT" if seat is None else PlacementGroupSchedulingStrategy(self._group, seat.rank)
            placed = actor.options(
                num_cpus=placement.cpus,
                num_gpus=placement.gpus or 0,
                max_concurrency=2,
                max_restarts=0,
                scheduling_strategy=strategy,
            )
            self.workers.append(placed.remote(self.study, self.corpus, placement, seat))
        self._ready, self._names = [worker.ready.remote() for worker in self.workers], ()

    def is_ready(self) -> bool:
        """Whether all workers have their place on the cluster and know each other."""
        if not self._names and self._ready:
            done, waiting = ray.wait(self._ready, num_returns=len(self._ready), timeout=0)
            with suppress(RayError):  # one that died before it was ready: its task says so too
                self._names = () if waiting else ray.get(done)
        return bool(self._names)

    def employs(self, name: str) -> bool:
        """Whether a worker of this name, as it calls itself in a run's status, is one of these."""
        return self.is_ready() and name in self._names

    def begin(self, run: Run, job: Job) -> None:
        self.run, self._ended, self._errors = run, {}, []
        self.tasks = {worker.train.remote(job): rank for rank, worker in enumerate(self.workers)}

    def stop(self) -> None:
        """Ask for a checkpoint and the end of the run in progress."""
        if self.workers:
            self.workers[0].stop.remote()

    def cut(self, run_id: str, reason: str) -> None:
        """Ask for the end of this run, for good."""
        if self.workers:  # not where a worker that hung has just been given up
            self.workers[0].cut.remote(run_id, reason)

    def result(self, done: Sequence[Any]) -> Result | None:
        """How the run ended; None while somebody is at it and nobody failed. `done` are tasks that are.

        Raises what a worker raised or died of. Where one of a group fails, the others fail for want of it, so the error
        is the most telling one of all: a death, then a want of memory, then the first.
        """
        self._hear(task for task in list(self.tasks) if task in done)
        if self._errors and self.tasks:
            self._hear(ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=GRACE_S)[0])
        if self._errors and 0 not in self._ended:
            raise min(self._errors, key=lambda error: (isinstance(error, RayTaskError), not is_memory_error(error)))
        return None if self.tasks else self._ended[0]

    def _hear(self, tasks: Iterable[Any]) -> None:
        for task in tasks:
            rank = self.tasks.pop(task)
            try:
                self._ended[rank] = ray.get(task)
            except RayError as error:
                self._errors.append(error)

    def kill(self) -> None:
        """End the workers on this machine without asking Ray, which may be gone."""
        pids = [int(pid) for host, _, pid in (name.rpartition(":") for name in self._names) if host == HOST]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def dismiss(self, *, by_force: bool = False) -> None:
        """Give the workers up. Ray asks them to end, which a stopped process does not hear: `by_force`, those on this
        machine get a signal first."""
        if by_force:
            self.kill()
        for worker in self.workers:
            ray.kill(worker)
        if self._group is not None:
            remove_placement_group(self._group)
        if self._meeting is not None:
            self._meeting.unlink(missing_ok=True)
        self.workers, self._ready, self._names = [], [], ()
        self._group = self._meeting = None


def is_memory_error(error: RayError) -> bool:
    """Whether a worker ran out of memory, or was killed by Ray because its node did."""
    return isinstance(error, OutOfMemoryError) or is_out_of_memory(cause_of(error))


def cause_of(error: RayError) -> BaseException:
    """The error that the worker raised, if Ray could pass it on; otherwise Ray's own error."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    return cause if isinstance(cause, BaseException) else error
