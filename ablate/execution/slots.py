"""Slots: the places on the cluster that train one run at a time, and the pool that gives them workers."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ablate.data import Corpus
from ablate.errors import ResourceError
from ablate.execution.affinity import Affinity
from ablate.execution.cluster import cause_of, is_headless, is_lost, node_resources
from ablate.execution.nodes import check_nodes
from ablate.execution.placement import Placement, count_slots
from ablate.execution.progress import Event, Observer
from ablate.execution.worker import RunWorker, Seat
from ablate.plan import Run
from ablate.tasks.contract import Job, Result
from ablate.tracking.curve import is_held
from ablate.tracking.folders import StudyFolder
from ablate.training.compilation import MAX_KINDS
from ablate.training.device import is_out_of_memory

HOST = socket.gethostname()
GRACE_S = 3.0  # how long the other workers of a group have to report why they failed
STAFF_S = 2.0  # time between looks for room on the cluster, and for its head
SIGNAL_S = 2.0  # how long a signal to every process of a job may take to reach this one
POLL_S = 0.25


class Slot:
    """The worker that trains one run at a time, or a stack of runs, or the group of workers that train a run together,
    rank 0 first.

    A slot has no workers while the cluster has no room for them. A placement group gives a group's processes their
    share of the cluster, all of them or none.
    """

    def __init__(
        self,
        placement: Placement,
        study: Path,
        corpus: Corpus | None,
        worker_class: type[RunWorker],
        courier: Any = None,
    ) -> None:
        self.placement, self.study, self.corpus, self.worker_class = placement, study, corpus, worker_class
        self.courier = courier
        self.runs: tuple[Run, ...] = ()
        self.kinds: set[str] = set()  # whose compiled code the workers have loaded
        self._begun: tuple[Run, ...] = ()
        self.tasks: dict[Any, int] = {}
        self.workers: list[Any] = []
        self._ended: dict[int, Sequence[Result]] = {}
        self._errors: list[RayError] = []
        self._ready: list[Any] = []
        self._names: Sequence[str] = ()
        self._group: PlacementGroup | None = None
        self._meeting: Path | None = None

    def staff(self) -> None:
        """Ask the cluster for workers. They become ready when there is room for them."""
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
            self.workers.append(placed.remote(self.study, self.corpus, placement, seat, self.courier))
        self._ready, self._names = [worker.ready.remote() for worker in self.workers], ()

    def is_ready(self) -> bool:
        """Whether all workers have a place on the cluster and have met each other."""
        if not self._names and self._ready:
            done, waiting = ray.wait(self._ready, num_returns=len(self._ready), timeout=0)
            with suppress(RayError):  # a worker that died before it was ready: its task fails too
                self._names = () if waiting else ray.get(done)
        return bool(self._names)

    def employs(self, name: str) -> bool:
        """Whether one of these workers has this name, which it writes to the status of a run."""
        return self.is_ready() and name in self._names

    def begin(self, runs: Sequence[Run], jobs: Sequence[Job]) -> None:
        """Let the workers train these runs, which end together."""
        self.runs = self._begun = tuple(runs)
        self._ended, self._errors = {}, []
        kind = runs[0].arm.setup.compiled_kind
        if kind is not None and kind not in self.kinds:
            if len(self.kinds) >= MAX_KINDS:
                self.kinds.clear()  # as the worker discards its compiled code
            self.kinds.add(kind)
        self.tasks = {worker.train_all.remote(jobs): rank for rank, worker in enumerate(self.workers)}

    def drop(self, run: Run) -> None:
        """Forget a run. Its worker may still train it."""
        self.runs = tuple(other for other in self.runs if other is not run)

    def stop(self) -> None:
        """Ask the workers to save checkpoints and end the runs in progress."""
        if self.workers:
            self.workers[0].stop.remote([run.run_id for run in self.runs])

    def cut(self, run_id: str, reason: str) -> None:
        """Ask the workers to end this run for good."""
        if self.workers:  # a slot has no workers just after one that hung was dismissed
            self.workers[0].cut.remote(run_id, reason)

    def result(self, done: Sequence[Any]) -> Sequence[tuple[Run, Result]] | None:
        """Each run and how it ended, or None while workers train it and none has failed. `done` are finished tasks.

        Raises the error of a worker that failed. If one of a group fails, the others fail because it is missing. So
        the most telling of their errors is raised: a death before a lack of memory, and that before any other.
        """
        self._collect(task for task in list(self.tasks) if task in done)
        if self._errors and self.tasks:
            self._collect(ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=GRACE_S)[0])
        if self._errors and 0 not in self._ended:
            raise min(self._errors, key=lambda error: (isinstance(error, RayTaskError), not is_memory_error(error)))
        if self.tasks:
            return None
        return [pair for pair in zip(self._begun, self._ended[0], strict=True) if pair[0] in self.runs]

    def _collect(self, tasks: Iterable[Any]) -> None:
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
        """End the workers. Ray asks them to end, but a process that hangs does not answer. With `by_force`, those on
        this machine get SIGKILL first."""
        if by_force:
            self.kill()
        for worker in self.workers:
            ray.kill(worker)
        if self.courier is not None and self._begun:  # the worker cannot release its runs
            closing = [self.courier.close.remote(run.run_id) for run in self._begun]
            ray.wait(closing, num_returns=len(closing), timeout=GRACE_S)
        if self._group is not None:
            remove_placement_group(self._group)
        if self._meeting is not None:
            self._meeting.unlink(missing_ok=True)
        self.workers, self._ready, self._names = [], [], ()
        self.kinds.clear()
        self._group = self._meeting = None


class SlotPool:
    """All slots of a driver. It replaces workers that were lost, and opens slots on nodes that join if it `grows`."""

    def __init__(
        self,
        store: StudyFolder,
        corpus: Corpus | None,
        placement: Placement,
        worker_class: type[RunWorker],
        observe: Observer,
        *,
        grows: bool,
        courier: Any = None,
    ) -> None:
        self.store, self.corpus, self.placement, self.courier = store, corpus, placement, courier
        self.worker_class, self.observe = worker_class, observe
        self.slots: list[Slot] = []
        self.released: set[str] = set()
        self._grows = grows
        self._staffed_at = self._head_checked_at = 0.0
        self._is_headless = False

    @property
    def busy(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.runs]

    def affinity(self, slot: Slot) -> Affinity:
        """What this slot's worker and all others have loaded."""
        return Affinity(slot.kinds, set().union(*(other.kinds for other in self.slots if other is not slot)))

    def open(self, count: int) -> None:
        for _ in range(count):
            slot = Slot(self.placement, self.store.path.resolve(), self.corpus, self.worker_class, self.courier)
            slot.staff()
            self.slots.append(slot)

    def staff(self, count_left: Callable[[], int]) -> None:
        """Give new workers to slots that lost theirs, if the cluster has room: a node may be gone, and Ray would wait
        for it silently and forever. Open more slots where nodes joined, as many as there are runs left."""
        empty = [slot for slot in self.slots if not slot.workers and not slot.runs]
        if not (empty or self._grows) or time.monotonic() - self._staffed_at < STAFF_S:
            return
        self._staffed_at = time.monotonic()
        placement = self.placement
        room = count_slots(placement.cpus, placement.gpus, placement.processes, node_resources())
        for slot in empty[: max(0, room - len(self.slots) + len(empty))]:
            slot.staff()
        if empty and len(empty) == len(self.slots) and not room:
            self.observe(Event("notice", text="no node of the cluster has room for a run; waiting for one"))
        if self._grows and room > len(self.slots) and (n_left := count_left()):
            self._grow(min(room - len(self.slots), n_left))

    def _grow(self, count: int) -> None:
        try:
            check_nodes(self.store.path)
        except ResourceError as error:
            self._grows = False
            self.observe(Event("notice", text=f"a node that joined is not used: {error}"))
            return
        self.open(count)
        self.placement = replace(self.placement, slots=len(self.slots))
        self.observe(Event("notice", text=f"a node joined; {self.placement} from now on"))

    def check_head(self) -> None:
        """Tell the observer when the head of the cluster stops answering."""
        if time.monotonic() - self._head_checked_at < STAFF_S:
            return
        self._head_checked_at = time.monotonic()
        was_headless, self._is_headless = self._is_headless, is_headless()
        if self._is_headless and not was_headless and not is_lost():
            text = (
                "the head of the Ray cluster does not answer; unless it comes back, Ray ends this process in a minute "
                "or two. Nothing is lost: the same command resumes the study"
            )
            self.observe(Event("notice", text=text))

    def abandon(self) -> None:
        """End the workers of a node that is gone, and wait until they have released their runs."""
        curves = [self.store.run(run.run_id).curve for slot in self.slots for run in slot.runs]
        for slot in self.slots:
            slot.kill()
        deadline = time.monotonic() + SIGNAL_S
        while any(map(is_held, curves)) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def dismiss(self) -> None:
        if self.courier is not None:
            clear_nodes([worker for slot in self.slots for worker in slot.workers])
        for slot in self.slots:
            slot.dismiss()

    def release(self, is_needed: Callable[[Run], bool]) -> None:
        """End the runs in progress that are no longer needed, and note their ids in `released`."""
        for slot in self.busy:
            left = [run for run in slot.runs if run.run_id not in self.released]
            if left and slot.is_ready() and not any(map(is_needed, left)):
                self.released.update(run.run_id for run in left)
                slot.stop()

    def stop(self) -> None:
        """Let every run in progress save a checkpoint and end."""
        for slot in self.busy:
            if slot.is_ready():
                slot.stop()
            else:
                slot.dismiss()


def is_memory_error(error: RayError) -> bool:
    """Whether a worker ran out of memory, or was killed by Ray because its node did."""
    return isinstance(error, OutOfMemoryError) or is_out_of_memory(cause_of(error))


def clear_nodes(workers: Sequence[Any]) -> None:
    """Let workers remove what their nodes only have for them."""
    leaving = [worker.leave.remote() for worker in workers]
    if leaving:
        ray.wait(leaving, num_returns=len(leaving), timeout=GRACE_S)
