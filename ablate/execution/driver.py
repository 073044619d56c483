"""The driver: it hands runs to workers until every run of the plan has ended, whatever fails on the way.

The module is long because its steps share the state of one loop.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from ablate.data import Corpus
from ablate.errors import AblateError
from ablate.execution.cluster import cause_of, is_lost
from ablate.execution.early_stopping import Stopping
from ablate.execution.interruption import ClusterLostError, Interruption, TimeLimit
from ablate.execution.jobs import RunSource, count_states, keep_code, make_job, record_arm
from ablate.execution.placement import Placement
from ablate.execution.progress import CurveFeed, Event, Observer, Outcome
from ablate.execution.recovery import MAX_ATTEMPTS, STUCK_S, Retries, Watchdog, is_unwritable
from ablate.execution.slots import POLL_S, SIGNAL_S, Slot, SlotPool, is_memory_error
from ablate.execution.worker import RunWorker
from ablate.formatting import name_error
from ablate.plan import Plan, Run
from ablate.tasks.contract import Job
from ablate.tracking.folders import StudyFolder
from ablate.tracking.manifest import describe_software
from ablate.tracking.mlflow_mirror import MlflowMirror
from ablate.tracking.study_record import ENDED, RunRecord, State

SLOTS_PER_LOOK = 64  # that may be looked at every `POLL_S`, so that looking at them stays a small part of a core
RECORD_ERRORS = (AblateError, ArithmeticError, LookupError, OSError, TypeError, ValueError)  # from broken records


@dataclass(frozen=True)
class DriverOptions:
    """How a driver works.

    With `stopping`, the runs that this rule cuts count as ended. With a `source`, more runs arrive while others train.
    If it `grows`, it also uses nodes that join the cluster later, if there are runs for them. A worker that is silent
    for `stuck_s` seconds is replaced. The `courier` serves nodes that do not see the study's folder.
    """

    stopping: Stopping | None = None
    source: RunSource | None = None
    limit: TimeLimit | None = None
    grows: bool = False
    stuck_s: float = STUCK_S
    interruption: Interruption | None = None
    worker_class: type[RunWorker] = RunWorker
    courier: Any = None


DEFAULTS = DriverOptions()


class Driver:
    """Trains the runs of a plan on a running cluster.

    The run folders say what is left to do, so a new driver continues the work of one that was killed.
    """

    def __init__(
        self,
        plan: Plan,
        store: StudyFolder,
        corpus: Corpus | None,
        placement: Placement,
        mirror: MlflowMirror,
        observe: Observer,
        options: DriverOptions = DEFAULTS,
    ) -> None:
        self.plan, self.store, self.mirror, self.observe = plan, store, mirror, observe
        self.stopping, self.source, self.limit = options.stopping, options.source, options.limit
        self.pool = SlotPool(
            store, corpus, placement, options.worker_class, observe, grows=options.grows, courier=options.courier
        )
        self.watchdog, self.retries = Watchdog(options.stuck_s), Retries(store, placement.processes)
        self.feed = CurveFeed(store, mirror, observe, options.stopping, plan.metrics)
        self.software = describe_software()
        self.interruption = options.interruption or Interruption(store)
        self.halted = ""
        self._is_stopping = False  # runs save checkpoints, and no other one starts
        self._held_elsewhere: set[str] = set()  # runs that another process trains
        self._lost: dict[str, str] = {}  # the error, by run id
        self._run_ids = {run.run_id for run in plan.runs}
        self._last = plan.held_out  # the arms that train after all others
        self._followed_at: dict[Slot, float] = {}

    def train(self, runs: Sequence[Run]) -> Outcome:
        """Train these runs, several at once, until they have ended or a signal, `ablate stop` or the time limit stops
        them.

        Raises `ClusterLostError` if the local Ray node died. Nothing is lost then: start again.
        """
        waiting = deque(runs)
        self.pool.open(self.pool.placement.slots)
        while self._has_work(waiting):
            if is_lost():
                # Batch systems signal every process of a job at once, and the node may be faster than this process.
                if self.interruption.arrives_within(SIGNAL_S):
                    self.pool.abandon()
                    break
                raise ClusterLostError("the local Ray node died")
            self.pool.check_head()
            self._check_for_end()
            self._hand_out(waiting)
            self.pool.staff(lambda: self._count_left(waiting))
            self._wait(waiting)
        if not is_lost():
            self.pool.dismiss()
        return Outcome(
            count_states(self.store, self._run_ids, self._lost),
            self.interruption.is_set and not self.halted,
            self.halted,
            self._lost,
        )

    def _check_for_end(self) -> None:
        if self._is_stopping:
            return
        if self.limit is not None and self.limit.is_past():
            self.limit.is_over = True
            self._stop_all()
        elif self.interruption.look():
            self._stop_all()

    def _has_work(self, waiting: deque[Run]) -> bool:
        self._draw(waiting)
        return bool(waiting and not self._is_stopping) or bool(self.pool.busy)

    def _draw(self, waiting: deque[Run], slot: Slot | None = None) -> None:
        """Drop runs that the time limit does not allow, and ask the source for more: for this slot, or for the first
        idle one, if possible one with a worker."""
        self._release(waiting)
        if self.source is None and self.limit is None:
            return
        slot = slot or max(
            (slot for slot in self.pool.slots if not slot.runs), key=lambda s: bool(s.workers), default=None
        )
        if slot is None or self._is_stopping:
            return
        if self.limit is not None:
            while waiting and not self.limit.allows(waiting[0]):
                waiting.popleft()
            if self.limit.is_over:
                return
        if self.source is None or waiting:
            return
        for run in self.source.draw(self.pool.affinity(slot)):
            self._run_ids.add(run.run_id)
            self.mirror.announce(RunRecord(run.run_id, run.arm.name, run.seed), record_arm(run.arm))
            waiting.append(run)

    def _release(self, waiting: deque[Run]) -> None:
        """Give up the runs that the source no longer needs."""
        if self.source is not None and not self._is_stopping:
            for run in [run for run in waiting if not self.source.is_needed(run)]:
                waiting.remove(run)
                self._forget(run)
            self.pool.release(self.source.is_needed)

    def _forget(self, run: Run) -> None:
        """Do not count a run that was given up."""
        self._run_ids.discard(run.run_id)
        self.mirror.withdraw(run.run_id)

    def _wait(self, waiting: deque[Run]) -> None:
        """Wait a moment for runs that end, then pass on what the others wrote in the meantime."""
        busy = {task: slot for slot in self.pool.busy for task in slot.tasks}
        if not busy:
            time.sleep(POLL_S)
            return
        # With many slots, a loop for each run that ends would look at all others each time.
        done, _ = ray.wait(list(busy), num_returns=1 + len(busy) // SLOTS_PER_LOOK, timeout=POLL_S)
        for slot in {busy[task]: None for task in done}:
            self._collect(slot, done, waiting)
        still_busy, now = self.pool.busy, time.monotonic()
        every_s = POLL_S * len(still_busy) / SLOTS_PER_LOOK
        for slot in still_busy:
            if now - self._followed_at.get(slot, 0.0) >= every_s:
                self._followed_at[slot] = now
                self._follow_all(slot)

    def _count_left(self, waiting: deque[Run]) -> int:
        n_more = self.source.n_left if self.source is not None else 0
        return 0 if self._is_stopping else len(waiting) + n_more

    def _hand_out(self, waiting: deque[Run]) -> None:
        for slot in self.pool.slots:
            if not slot.runs and slot.workers and not self._is_stopping:
                self._draw(waiting, slot)
                if not waiting:
                    return
                runs, jobs = [], []
                for run in self._take(waiting, slot):
                    with self._isolated(run):
                        jobs.append(self._prepare(run))
                        runs.append(run)
                if runs:
                    slot.begin(runs, jobs)
                for run in runs:
                    if run.run_id not in self._held_elsewhere:
                        self.observe(Event("started", run))

    def _take(self, waiting: deque[Run], slot: Slot) -> Sequence[Run]:
        """Take the run that suits a slot best, and with `stack: seeds` the other seeds of its arm that wait."""
        first = self._choose(waiting, slot)
        del waiting[next(place for place, run in enumerate(waiting) if run is first)]
        if self.plan.study.resources.stack is None:
            return [first]
        others = [run for run in waiting if run.arm.identity == first.arm.identity and run.run_id != first.run_id]
        for run in others:
            waiting.remove(run)
        return [first, *others]

    def _choose(self, waiting: deque[Run], slot: Slot) -> Run:
        first = waiting[0]
        if first.arm.setup.compiled_kind is None:
            return first
        free = (run for run in waiting if self._is_free(run, first))
        return self.pool.affinity(slot).choose(free, lambda run: run.seed) or first

    def _is_free(self, run: Run, first: Run) -> bool:
        """Whether a run may start before the `first` that waits: no other process trains it, it is held out only if the
        first is too, and the time limit allows it."""
        if run.run_id in self._held_elsewhere or (run.arm.name in self._last) != (first.arm.name in self._last):
            return False
        return self.limit is None or self.limit.fits(run)

    def _prepare(self, run: Run) -> Job:
        folder = keep_code(self.store, run)
        self.feed.begin(run)
        cut_counts = self.stopping is not None or (self.source is not None and self.source.keeps_cut(run))
        pause_step = self.source.pause_step(run) if self.source is not None else None
        job = make_job(
            self.plan,
            run,
            self.pool.placement,
            self.software,
            cut_counts=cut_counts,
            study=self.store.path,
            pause_step=pause_step,
        )
        self.watchdog.begin(folder.status)
        return job

    @contextmanager
    def _isolated(self, run: Run, slot: Slot | None = None) -> Iterator[None]:
        """Let an error in the records of one run fail only that run, and free its slot."""
        try:
            yield
        except RECORD_ERRORS as error:
            if slot is not None and run in slot.runs:
                slot.drop(run)  # the others of its stack start again when the driver hears of the death
                slot.dismiss(by_force=True)
            self._give_up(run, f"{type(error).__name__}: {error}")

    def _follow_all(self, slot: Slot) -> None:
        """Pass on what the runs of a slot have written since the last look, and kill a stuck worker."""
        for run in slot.runs:
            with self._isolated(run, slot):
                self._follow(slot, run)
        if slot.runs and all(self.watchdog.is_stuck(self.store.run(run.run_id).status) for run in slot.runs):
            self._kill(slot)

    def _follow(self, slot: Slot, run: Run) -> None:
        """Pass on what the run has written since the last look, and cut it if necessary."""
        folder = self.store.run(run.run_id)
        status_path = folder.status
        memory = {}
        if self.watchdog.has_news(status_path):
            memory = {"memory_bytes": folder.read_memory_bytes()}
        elif not slot.is_ready():  # a worker that waits for room on the cluster is not stuck
            self.watchdog.begin(status_path)
        self.feed.report(run, memory)
        if reason := self.feed.cuts.get(run.run_id):
            slot.cut(run.run_id, reason)

    def _kill(self, slot: Slot) -> None:
        """Kill a worker that hangs. Another worker then takes over its runs."""
        text = f"no sign of life for {self.watchdog.patience_s:.0f} s; its worker was killed"
        for run in slot.runs:
            self.observe(Event("retry", run, text=text))
            self.watchdog.begin(self.store.run(run.run_id).status)
        slot.dismiss(by_force=True)

    def _collect(self, slot: Slot, done: Sequence[Any], waiting: deque[Run]) -> None:
        runs = slot.runs
        try:
            results = slot.result(done)
        except RayError as error:
            slot.runs = ()
            self._handle_failures(slot, runs, waiting, error)
            return
        if results is None:
            return
        slot.runs = ()
        for run, result in results:
            with self._isolated(run):
                if result == "busy":
                    self._wait_for_other(run, waiting)
                else:
                    self._finish(run, "queued" if result == "stopped" else result)

    def _handle_failures(self, slot: Slot, runs: Sequence[Run], waiting: deque[Run], error: RayError) -> None:
        """Handle runs whose worker died or raised an error. A group that lost one of its workers is dismissed."""
        if is_lost():
            waiting.extendleft(reversed(runs))  # any call to the cluster would hang
            return
        is_death, is_group = not isinstance(error, RayTaskError), self.pool.placement.processes > 1
        begun = [is_death and slot.employs(self.store.run(run.run_id).read_status().worker) for run in runs]
        if is_death or is_group:
            slot.dismiss(by_force=is_group)
        for run, has_begun in zip(reversed(runs), reversed(begun), strict=True):
            with self._isolated(run):
                self._handle_failure(run, waiting, error, is_death=is_death, has_begun=has_begun)

    def _handle_failure(
        self, run: Run, waiting: deque[Run], error: RayError, *, is_death: bool, has_begun: bool
    ) -> None:
        if is_death and self._is_stopping:
            self._finish(run, "queued")
        elif is_death:
            self._retry(run, waiting, error, has_begun=has_begun)
        elif is_memory_error(error) and (less := self.retries.halve_micro_batch(run, "out of memory")):
            waiting.appendleft(run)
            self.observe(Event("retry", run, text=f"out of memory{less}"))
        else:
            cause = cause_of(error)
            self._give_up(run, str(cause) if isinstance(cause, OSError | AblateError) else str(error))
            if isinstance(cause, OSError) and is_unwritable(cause, self.store.path):
                self.halted = f"{self.store.path}: {cause.strerror}; everything saved so far is intact"
                self._stop_all()

    def _wait_for_other(self, run: Run, waiting: deque[Run]) -> None:
        """Another `ablate run` trains this run: try it again after the others."""
        waiting.append(run)
        if run.run_id not in self._held_elsewhere:
            self._held_elsewhere.add(run.run_id)
            self.observe(Event("retry", run, text="another process is training it"))
        time.sleep(POLL_S)

    def _retry(self, run: Run, waiting: deque[Run], error: RayError, *, has_begun: bool) -> None:
        is_memory_error = isinstance(error, OutOfMemoryError)
        text = self.retries.record_death(run, is_memory_error=is_memory_error, has_begun=has_begun)
        if text is None:
            reason = name_error(str(error))
            self._give_up(run, f"its worker process died {MAX_ATTEMPTS} times without further progress: {reason}")
            return
        waiting.appendleft(run)
        self.observe(Event("retry", run, text=text))

    def _give_up(self, run: Run, error: str) -> None:
        folder = self.store.run(run.run_id)
        with suppress(*RECORD_ERRORS):
            status = folder.read_status()
            if status.state not in ENDED:
                folder.write_status(replace(status, state="failed", error=error))
        with suppress(*RECORD_ERRORS):
            self.feed.report(run)
        self._end(run, "failed", error)

    def _finish(self, run: Run, state: State) -> None:
        self.feed.report(run)
        status = self.store.run(run.run_id).read_status()
        if self.limit is not None and state == "finished" and not status.is_cut:
            self.limit.learn(run, status.took_s)
        text = status.notes[-1] if status.is_cut and status.notes else ""
        if state == "failed":
            text = status.error
        elif state == "queued" and run.run_id in self.pool.released:
            text = "no longer needed"
            self._forget(run)
        elif state == "queued":
            text = run.arm.setup.resumption(self.store.run(run.run_id).checkpoint)
        self._end(run, state, text)

    def _end(self, run: Run, state: State, text: str) -> None:
        if state == "failed":
            text = self._lost[run.run_id] = name_error(text)
        self.mirror.note_end(run.run_id, state)
        if state != "queued":
            self.feed.end(run)
            self.watchdog.end(self.store.run(run.run_id).status)
        if self.source is not None and state in ("finished", "diverged", "failed"):
            self.source.tell(run, state)
        self.observe(Event("ended", run, state=state, text=text))

    def _stop_all(self) -> None:
        """Let every run in progress save a checkpoint, and start no more."""
        self._is_stopping = True
        self.pool.stop()
