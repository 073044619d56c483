"""The driver: hands runs to workers until every run of the plan has ended, whatever happens to either."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ablate.data import Corpus
from ablate.errors import ResourceError
from ablate.execution.placement import Placement
from ablate.execution.worker import Job, Result, RunWorker
from ablate.plan import Plan, Run
from ablate.tracking.curve import CurveReader
from ablate.tracking.manifest import describe_software
from ablate.tracking.mlflow_mirror import MlflowMirror
from ablate.tracking.records import ENDED, ArmRecord, RunRecord, State, StudyRecord
from ablate.tracking.store import Store

POLL_S = 0.25
MAX_ATTEMPTS = 3  # of a run whose worker dies under it

Observer = Callable[["Event"], None]


@dataclass(frozen=True)
class Event:
    """Something that a person may want to see: a run started, went on, or ended."""

    kind: str  # "started", "progress", "ended", "retry", "tick"
    run: Run | None = None
    state: State | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Outcome:
    """How the study stands after the driver: the number of runs by state, and whether it was interrupted."""

    states: Mapping[State, int]
    interrupted: bool

    @property
    def exit_code(self) -> int:
        return 130 if self.interrupted else 1 if self.states.get("failed") else 0


def record_study(plan: Plan, version: str, command: str) -> StudyRecord:
    """The plan as the record that the study's folder keeps."""
    study = plan.study
    arms = tuple(
        ArmRecord(
            arm=arm.name,
            axes=arm.axes,
            within=arm.within,
            baseline=arm.baseline,
            n_params=arm.n_params,
            flops_per_token=arm.flops_per_token,
            n_steps=arm.train.steps,
            n_tokens=arm.n_tokens,
            notices=arm.notices,
        )
        for arm in plan.arms
    )
    return StudyRecord(
        study=study.study,
        question=study.question,
        design=study.design,
        match=study.match,
        compare_within=study.compare_within,
        baseline=plan.baseline,
        axes=plan.axes,
        data={
            **study.data.model_dump(),
            "hash": plan.corpus.hash,
            "n_train_tokens": plan.corpus.n_train_tokens,
            "n_validation_tokens": plan.corpus.n_validation_tokens,
        },
        train=study.train.model_dump(),
        arms=arms,
        runs=tuple(RunRecord(run.run_id, run.arm.name, run.seed) for run in plan.runs),
        version=version,
        command=command,
    )


def make_job(plan: Plan, run: Run, placement: Placement, software: Mapping[str, Any]) -> Job:
    """What a worker is told of a run."""
    data = {"source": plan.study.data.source, "tokenizer": plan.study.data.tokenizer, "hash": plan.corpus.hash}
    config = {
        "model": run.arm.model.to_dict(),
        "train": run.arm.train.model_dump(),
        "data": data,
        "seed": run.seed,
    }
    manifest = {
        **software,
        "arm": run.arm.name,
        "seed": run.seed,
        "data_hash": plan.corpus.hash,
        "precision": run.arm.train.precision,
        "gpus": placement.gpus,
        "shared_by": placement.lanes,
    }
    return Job(run.run_id, config, manifest)


def unfinished(plan: Plan, store: Store) -> list[Run]:
    """The runs that have neither finished nor diverged."""
    return [run for run in plan.runs if store.run(run.run_id).read_status().state not in ENDED]


@contextmanager
def cluster(address: str | None, available: Mapping[str, float]) -> Iterator[Mapping[str, float]]:
    """A Ray cluster for as long as the driver needs it: the one at `address`, or this machine. Gives its resources.

    Raises `ResourceError` where no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=int(available["CPU"]),
                num_gpus=int(available["GPU"]),
                include_dashboard=False,
                **quiet,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"no Ray cluster answers at {address}" if address else "Ray did not start on this machine"
        raise ResourceError(f"{where}: {error}") from None
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


class Driver:
    """Trains the runs of a plan on a running cluster.

    The run folders say what is left to do, so a driver that was killed is followed by one that goes on.
    """

    def __init__(
        self, plan: Plan, store: Store, corpus: Corpus, placement: Placement, mirror: MlflowMirror, observe: Observer
    ) -> None:
        self.plan, self.store, self.corpus = plan, store, corpus
        self.placement, self.mirror, self.observe = placement, mirror, observe
        self.software = describe_software()
        self.interrupted = threading.Event()
        self._attempts: dict[str, int] = {}
        self._busy: set[str] = set()
        self._lost: set[str] = set()
        self._readers: dict[str, CurveReader] = {}

    def train(self, runs: Sequence[Run]) -> Outcome:
        """Train these runs, several at once, and return when they have ended or Ctrl-C came."""
        waiting = deque(runs)
        lanes = [_Lane(self._start_worker()) for _ in range(self.placement.lanes)]
        with self._interruptible(lanes):
            while waiting or any(lane.run for lane in lanes):
                self._hand_out(lanes, waiting)
                busy = {lane.task: lane for lane in lanes if lane.run is not None}
                if not busy:
                    break
                done, _ = ray.wait(list(busy), num_returns=1, timeout=POLL_S)
                for lane in lanes:
                    if lane.run is not None:
                        self._follow(lane.run)
                for task in done:
                    self._collect(busy[task], waiting)
                self.observe(Event("tick"))
        return Outcome(self.count_states(), self.interrupted.is_set())

    def count_states(self) -> Mapping[State, int]:
        counts: dict[State, int] = {}
        state: State
        for run_id in {run.run_id for run in self.plan.runs}:
            state = "failed" if run_id in self._lost else self.store.run(run_id).read_status().state
            counts[state] = counts.get(state, 0) + 1
        return counts

    def _start_worker(self) -> Any:
        actor = ray.remote(RunWorker).options(
            num_cpus=self.placement.cpus, num_gpus=self.placement.gpus or 0, max_concurrency=2, max_restarts=0
        )
        return actor.remote(self.store.path.resolve(), self.corpus, self.placement.cpus)

    def _hand_out(self, lanes: Sequence[_Lane], waiting: deque[Run]) -> None:
        for lane in lanes:
            if lane.run is None and waiting and not self.interrupted.is_set():
                lane.run = waiting.popleft()
                lane.task = lane.worker.train.remote(make_job(self.plan, lane.run, self.placement, self.software))
                reader = self._readers[lane.run.run_id] = CurveReader(self.store.run(lane.run.run_id).curve)
                self.mirror.add(lane.run.run_id, reader.read())
                self.observe(Event("started", lane.run))

    def _follow(self, run: Run) -> None:
        """Pass on what the run has written to its curve since the last look."""
        records = self._readers[run.run_id].read()
        self.mirror.add(run.run_id, records)
        if records:
            self.observe(Event("progress", run, record=records[-1] | _last_validation(records)))

    def _collect(self, lane: _Lane, waiting: deque[Run]) -> None:
        run, lane.run = lane.run, None
        assert run is not None
        try:
            result: Result = ray.get(lane.task)
        except RayTaskError as error:  # its own folder could not be written
            self._give_up(run, str(error.cause or error))
        except RayError:
            self._replace_worker(lane, run, waiting)
        else:
            if result == "busy":
                self._wait_for_other(run, waiting)
            else:
                self._finish(run, "queued" if result == "stopped" else result)

    def _wait_for_other(self, run: Run, waiting: deque[Run]) -> None:
        """Another `ablate run` trains it: look again once the others have been handed out."""
        waiting.append(run)
        if run.run_id not in self._busy:
            self._busy.add(run.run_id)
            self.observe(Event("retry", run, text="another process is training it"))
        time.sleep(POLL_S)

    def _replace_worker(self, lane: _Lane, run: Run, waiting: deque[Run]) -> None:
        """The process died, of a signal or for want of memory: another one goes on from the run's checkpoint."""
        lane.worker = self._start_worker()
        attempts = self._attempts[run.run_id] = self._attempts.get(run.run_id, 0) + 1
        if attempts < MAX_ATTEMPTS:
            waiting.appendleft(run)
            self.observe(Event("retry", run, text="its worker died; another goes on from the last checkpoint"))
        else:
            self._give_up(run, f"its worker process died {attempts} times; is there enough memory?")

    def _give_up(self, run: Run, error: str) -> None:
        self._lost.add(run.run_id)
        folder = self.store.run(run.run_id)
        with suppress(OSError):
            folder.write_status(replace(folder.read_status(), state="failed", error=error))
        self._finish(run, "failed", error)

    def _finish(self, run: Run, state: State, error: str = "") -> None:
        self._follow(run)
        self.mirror.end(run.run_id, state)
        if state == "failed":
            error = error or self.store.run(run.run_id).read_status().error.strip()
        self.observe(Event("ended", run, state=state, text=error.rsplit("\n", 1)[-1]))

    @contextmanager
    def _interruptible(self, lanes: Sequence[_Lane]) -> Iterator[None]:
        """The first Ctrl-C saves checkpoints and stops; the second one does not wait for them."""

        def stop(_signal: int, _frame: FrameType | None) -> None:
            if self.interrupted.is_set():
                raise KeyboardInterrupt
            self.interrupted.set()
            for lane in lanes:
                if lane.run is not None:
                    lane.worker.stop.remote()

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class _Lane:
    """A worker and what it is doing."""

    worker: Any
    run: Run | None = None
    task: Any = None


def _last_validation(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = [record["val_loss"] for record in records if record.get("val_loss") is not None]
    return {"val_loss": values[-1]} if values else {}
