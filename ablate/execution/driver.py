"""The driver: hands runs to workers until every run of the plan has ended, whatever happens to either."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from ablate.data import Corpus
from ablate.errors import AblateError, ResourceError
from ablate.execution.cluster import check_nodes, is_headless, is_lost, node_resources
from ablate.execution.early_stopping import Stopping
from ablate.execution.events import Event, Observer, Outcome
from ablate.execution.failures import STUCK_S, Watchdog, is_unwritable
from ablate.execution.interruption import ClusterLostError, Interruption, TimeLimit
from ablate.execution.jobs import RunSource, count_states, make_job, record_arm
from ablate.execution.placement import Placement, count_slots
from ablate.execution.slots import Slot, cause_of, is_memory_error
from ablate.execution.worker import RunWorker
from ablate.formatting import name_error
from ablate.plan import Plan, Run
from ablate.tracking.curve import CurveReader, is_held
from ablate.tracking.folders import StudyFolder
from ablate.tracking.manifest import describe_software
from ablate.tracking.mlflow_mirror import MlflowMirror
from ablate.tracking.study_record import ENDED, RunRecord, State

# What broken records of one run may raise.
RECORD_ERRORS = (AblateError, ArithmeticError, LookupError, OSError, TypeError, ValueError)

POLL_S = 0.25
STAFF_S = 2.0  # how often it looks for room on the cluster, and for its head
SIGNAL_S = 2.0  # how long a signal to every process of a job may take to reach this one
MAX_ATTEMPTS = 3  # of a run whose worker dies under it without having come further


class Driver:
    """Trains the runs of a plan on a running cluster.

    The run folders say what is left to do, so a driver that was killed is followed by one that goes on. With
    `stopping`, runs that it cuts count as ended. With a `source`, it has further runs while others train. Where it
    `grows`, it takes nodes that join the cluster later, as far as there are runs for them.
    """

    def __init__(
        self,
        plan: Plan,
        store: StudyFolder,
        corpus: Corpus,
        placement: Placement,
        mirror: MlflowMirror,
        observe: Observer,
        *,
        stopping: Stopping | None = None,
        source: RunSource | None = None,
        limit: TimeLimit | None = None,
        grows: bool = False,
        stuck_s: float = STUCK_S,
        interruption: Interruption | None = None,
        worker_class: type[RunWorker] = RunWorker,
    ) -> None:
        self.plan, self.store, self.corpus = plan, store, corpus
        self.placement, self.mirror, self.observe = placement, mirror, observe
        self.stopping, self.source, self.limit, self.worker_class = stopping, source, limit, worker_class
        self.watchdog, self._grows = Watchdog(stuck_s), grows
        self.software = describe_software()
        self.interruption = interruption or Interruption(store)
        self.halted = ""
        self._is_stopping = False  # whatever the reason: runs save checkpoints, and no other one starts
        self._deaths: dict[str, tuple[int, int, int]] = {}  # at which progress, how many, how many once it had begun
        self._busy: set[str] = set()
        self._lost: dict[str, str] = {}  # the error, by run
        self._cuts: dict[str, str] = {}  # why, by run
        self._readers: dict[str, CurveReader] = {}
        self._run_ids = {run.run_id for run in plan.runs}
        self._slots: list[Slot] = []
        self._staffed_at = self._headed_at = 0.0
        self._is_headless = False

    def train(self, runs: Sequence[Run]) -> Outcome:
        """Train these runs, several at once. Returns when they have ended, or when a signal, `ablate stop` or the time
        limit stopped them.

        Raises `ClusterLostError` if the local Ray node died: start again, nothing is lost.
        """
        waiting = deque(runs)
        self._slots = []
        self._open_slots(self.placement.slots)
        while self._has_work(waiting):
            if is_lost():
                # Batch systems signal every process of a job at once, and the node may be faster than this process.
                if self.interruption.arrives_within(SIGNAL_S):
                    self._abandon_slots()
                    break
                raise ClusterLostError("the local Ray node died")
            self._look_for_head()
            self._look_for_end()
            self._hand_out(waiting)
            self._staff_slots(waiting)
            self._wait(waiting)
        for slot in self._slots if not is_lost() else ():
            slot.dismiss()
        return Outcome(
            count_states(self.store, self._run_ids, self._lost),
            self.interruption.is_set and not self.halted,
            self.halted,
            self._lost,
        )

    def _abandon_slots(self) -> None:
        """End the workers of a node that is gone, and wait until they have let go of their runs."""
        curves = [self.store.run(slot.run.run_id).curve for slot in self._slots if slot.run is not None]
        for slot in self._slots:
            slot.kill()
        deadline = time.monotonic() + SIGNAL_S
        while any(map(is_held, curves)) and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def _look_for_end(self) -> None:
        if self._is_stopping:
            return
        if self.limit is not None and self.limit.is_past():
            self.limit.is_over = True
            self._stop_all()
        elif self.interruption.look():
            self._stop_all()

    def _has_work(self, waiting: deque[Run]) -> bool:
        self._draw(waiting)
        return bool(waiting and not self._is_stopping) or bool(self._busy_slots())

    def _draw(self, waiting: deque[Run]) -> None:
        """Ask the source for runs where a worker has nothing to do; drop what the time does not allow."""
        is_idle = len(self._busy_slots()) < len(self._slots) and not self._is_stopping
        if is_idle and self.limit is not None:
            allowed = [run for run in waiting if self.limit.allows(run)]
            waiting.clear()
            waiting.extend(allowed)
        if self.source is None or not is_idle or waiting or (self.limit is not None and self.limit.is_over):
            return
        for run in self.source.draw():
            self._run_ids.add(run.run_id)
            self.mirror.announce(RunRecord(run.run_id, run.arm.name, run.seed), record_arm(run.arm))
            waiting.append(run)

    def _busy_slots(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.run is not None]

    def _wait(self, waiting: deque[Run]) -> None:
        """Until something ended, a moment at most; then pass on what the runs wrote meanwhile."""
        busy = {task: slot for slot in self._busy_slots() for task in slot.tasks}
        if not busy:
            time.sleep(POLL_S)
            return
        done, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0)
        if not done:
            done, _ = ray.wait(list(busy), num_returns=1, timeout=POLL_S)
        for slot in {busy[task]: None for task in done}:
            assert slot.run is not None
            with self._isolated(slot.run, slot):
                self._collect(slot, done, waiting)
        for slot in self._busy_slots():
            assert slot.run is not None
            with self._isolated(slot.run, slot):
                self._follow(slot)

    def _look_for_head(self) -> None:
        if time.monotonic() - self._headed_at < STAFF_S:
            return
        self._headed_at = time.monotonic()
        was_headless, self._is_headless = self._is_headless, is_headless()
        if self._is_headless and not was_headless and not is_lost():
            text = "the head of the Ray cluster does not answer; unless it comes back, Ray ends this in a minute or two"
            self.observe(Event("notice", text=f"{text}, and the same command goes on: nothing is lost"))

    def _open_slots(self, count: int) -> None:
        for _ in range(count):
            slot = Slot(self.placement, self.store.path.resolve(), self.corpus, self.worker_class)
            slot.staff()
            self._slots.append(slot)

    def _staff_slots(self, waiting: deque[Run]) -> None:
        """Give slots that lost their worker a new one, as far as the cluster still has room: a node may be gone, and
        Ray would wait for it for ever in silence. Open further ones where a node came."""
        empty = [slot for slot in self._slots if not slot.workers and slot.run is None]
        if not (empty or self._grows) or time.monotonic() - self._staffed_at < STAFF_S:
            return
        self._staffed_at = time.monotonic()
        placement = self.placement
        room = count_slots(placement.cpus, placement.gpus, placement.processes, node_resources())
        for slot in empty[: max(0, room - len(self._slots) + len(empty))]:
            slot.staff()
        if empty and len(empty) == len(self._slots) and not room:
            self.observe(Event("notice", text="no node of the cluster has room for a run; waiting for one"))
        n_left = len(waiting) + (self.source.n_left if self.source is not None else 0)
        if self._grows and n_left and room > len(self._slots) and not self._is_stopping:
            self._grow(min(room - len(self._slots), n_left))

    def _grow(self, count: int) -> None:
        try:
            check_nodes(self.store.path)
        except ResourceError as error:
            self._grows = False
            self.observe(Event("notice", text=f"a node that joined is left alone: {error}"))
            return
        self._open_slots(count)
        self.placement = replace(self.placement, slots=len(self._slots))
        self.observe(Event("notice", text=f"a node joined; {self.placement} from here on"))

    def _hand_out(self, waiting: deque[Run]) -> None:
        for slot in self._slots:
            if slot.run is None and slot.workers and not self._is_stopping:
                self._draw(waiting)
                if not waiting:
                    return
                run = waiting.popleft()
                with self._isolated(run):
                    self._begin(slot, run)

    def _begin(self, slot: Slot, run: Run) -> None:
        folder = self.store.run(run.run_id)
        if run.run_id in self._readers:  # what it wrote between the last look and the end of an attempt
            self._read_on(run)
        else:  # what an earlier driver saw of it: the rule of early stopping knows
            reader = self._readers[run.run_id] = CurveReader(folder.curve)
            reader.read()
            self.mirror.note_lines(run.run_id)
        cut_counts = self.stopping is not None or self.source is not None
        job = make_job(self.plan, run, self.placement, self.software, cut_counts=cut_counts)
        self.watchdog.begin(folder.status)
        slot.begin(run, job)
        if run.run_id not in self._busy:
            self.observe(Event("started", run))

    @contextmanager
    def _isolated(self, run: Run, slot: Slot | None = None) -> Iterator[None]:
        """An error in the records of one run fails this run and takes it from its slot. The others go on."""
        try:
            yield
        except RECORD_ERRORS as error:
            if slot is not None and slot.run is not None:
                slot.run = None
                slot.dismiss(by_force=True)
            self._give_up(run, f"{type(error).__name__}: {error}")

    def _follow(self, slot: Slot) -> None:
        """Pass on what the run has written since the last look; cut it, or replace its worker, where that is due."""
        run = slot.run
        assert run is not None
        records = self._read_on(run)
        status_path = self.store.run(run.run_id).status
        memory = {}
        if self.watchdog.has_news(status_path):
            memory = {"memory_bytes": self.store.run(run.run_id).read_status().memory_bytes}
        elif not slot.is_ready():  # a worker that waits for room on the cluster is silent, and not stuck
            self.watchdog.begin(status_path)
        elif self.watchdog.is_stuck(status_path):
            self._kill(slot, run)
        if records:
            self.observe(Event("progress", run, record=records[-1] | _last_validation(records) | memory))
        if run.run_id in self._cuts:
            slot.cut(run.run_id, self._cuts[run.run_id])

    def _read_on(self, run: Run) -> list[dict[str, Any]]:
        """The lines that came since the last look, each once, which the mirror and the rule of early stopping get."""
        records = self._readers[run.run_id].read()
        if records:
            self.mirror.note_lines(run.run_id)
        if self.stopping is not None and (reason := self.stopping.judge(run, records)):
            self._cuts.setdefault(run.run_id, reason)
        return records

    def _kill(self, slot: Slot, run: Run) -> None:
        """A worker that hangs is no help any more: its death brings another one."""
        self.observe(Event("retry", run, text=f"no sign of life for {self.watchdog.patience_s:.0f} s; worker killed"))
        self.watchdog.begin(self.store.run(run.run_id).status)
        slot.dismiss(by_force=True)

    def _collect(self, slot: Slot, done: Sequence[Any], waiting: deque[Run]) -> None:
        run = slot.run
        assert run is not None
        try:
            result = slot.result(done)
        except RayError as error:
            slot.run = None
            self._take_up(slot, run, waiting, error)
            return
        if result is None:
            return
        slot.run = None
        if result == "busy":
            self._wait_for_other(run, waiting)
        else:
            self._finish(run, "queued" if result == "stopped" else result)

    def _take_up(self, slot: Slot, run: Run, waiting: deque[Run], error: RayError) -> None:
        """What becomes of a run whose worker died or raised. A group of which one did is of no use any more."""
        if is_lost():
            waiting.appendleft(run)  # and no call on the cluster would return
            return
        is_death, is_group = not isinstance(error, RayTaskError), self.placement.processes > 1
        has_begun = is_death and slot.employs(self.store.run(run.run_id).read_status().worker)
        if is_death or is_group:
            slot.dismiss(by_force=is_group)
        if is_death and self._is_stopping:
            self._finish(run, "queued")
        elif is_death:
            self._retry(run, waiting, error, has_begun=has_begun)
        elif is_memory_error(error) and (less := self._reduce(run, "out of memory")):
            waiting.appendleft(run)
            self.observe(Event("retry", run, text=f"out of memory{less}"))
        else:
            cause = cause_of(error)
            self._give_up(run, str(cause) if isinstance(cause, OSError | AblateError) else str(error))
            if isinstance(cause, OSError) and is_unwritable(cause, self.store.path):
                self.halted = f"{self.store.path}: {cause.strerror}; what was saved before is whole"
                self._stop_all()

    def _wait_for_other(self, run: Run, waiting: deque[Run]) -> None:
        """Another `ablate run` trains it: look again once the others have been handed out."""
        waiting.append(run)
        if run.run_id not in self._busy:
            self._busy.add(run.run_id)
            self.observe(Event("retry", run, text="another process is training it"))
        time.sleep(POLL_S)

    def _retry(self, run: Run, waiting: deque[Run], error: RayError, *, has_begun: bool) -> None:
        """The process died, of a signal or for want of memory: another one goes on from the run's checkpoint.

        Ray says where it killed for want of memory. Where the kernel did, nobody says so; a run that dies a second time
        without having come further gets the smaller micro-batch on that suspicion, and not before, because a run that
        was merely shot must go on bit for bit. It is not suspected of a death before it began: of a worker that died
        idle nobody hears until a run is handed to it.
        """
        folder = self.store.run(run.run_id)
        progress = folder.checkpoint.stat().st_mtime_ns if folder.checkpoint.exists() else 0
        before, deaths, suspicious = self._deaths.get(run.run_id, (progress, 0, 0))
        if progress != before:
            deaths, suspicious = 0, 0
        deaths, suspicious = deaths + 1, suspicious + has_begun
        self._deaths[run.run_id] = (progress, deaths, suspicious)
        if deaths >= MAX_ATTEMPTS:
            reason = name_error(str(error))
            self._give_up(run, f"its worker process died {deaths} times without coming further: {reason}")
            return
        text = "its worker died; another goes on from the last checkpoint"
        if isinstance(error, OutOfMemoryError) or (has_begun and suspicious == MAX_ATTEMPTS - 1):
            text += self._reduce(run, "its process was killed, perhaps for want of memory")
        waiting.appendleft(run)
        self.observe(Event("retry", run, text=text))

    def _reduce(self, run: Run, reason: str) -> str:
        """Half as many sequences at once from here on, where that can be; how many, for people to read."""
        folder = self.store.run(run.run_id)
        status = folder.read_status()
        train = run.arm.train
        if status.micro_batch_size:
            train = train.model_copy(update={"micro_batch_size": status.micro_batch_size})
        smaller = train.smaller_micro_batch(self.placement.processes)
        if smaller is None:
            return ""
        notes = (*status.notes, f"{reason}: {smaller} sequences at once from here on")
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.write_status(replace(status, micro_batch_size=smaller, notes=notes))
        return f", {smaller} sequences at once"

    def _give_up(self, run: Run, error: str) -> None:
        folder = self.store.run(run.run_id)
        with suppress(*RECORD_ERRORS):
            status = folder.read_status()
            if status.state not in ENDED:
                folder.write_status(replace(status, state="failed", error=error))
        with suppress(*RECORD_ERRORS):
            self._show_last(run)
        self._end(run, "failed", error)

    def _finish(self, run: Run, state: State) -> None:
        self._show_last(run)
        status = self.store.run(run.run_id).read_status()
        if self.limit is not None and state == "finished" and not status.is_cut:
            self.limit.learn(run, status.took_s)
        text = status.notes[-1] if status.is_cut and status.notes else ""
        if state == "failed":
            text = status.error
        elif state == "queued":
            has_checkpoint = self.store.run(run.run_id).checkpoint.exists()
            text = "its checkpoint is kept" if has_checkpoint else "it had no checkpoint yet"
        self._end(run, state, text)

    def _show_last(self, run: Run) -> None:
        records = self._read_on(run)
        if records:
            self.observe(Event("progress", run, record=records[-1] | _last_validation(records)))

    def _end(self, run: Run, state: State, text: str) -> None:
        if state == "failed":
            text = self._lost[run.run_id] = name_error(text)
        self.mirror.note_end(run.run_id, state)
        if self.source is not None and state in ("finished", "diverged", "failed"):
            self.source.tell(run, state)
        self.observe(Event("ended", run, state=state, text=text))

    def _stop_all(self) -> None:
        """Let every run in progress save a checkpoint, and hand out no more."""
        self._is_stopping = True
        for slot in self._busy_slots():
            if slot.is_ready():
                slot.stop()
            else:
                slot.dismiss()


def _last_validation(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [record["val_loss"] for record in records if record.get("val_loss") is not None]
    return {"val_loss": values[-1]} if values else {}
