"""A worker process. It trains one run after another, and keeps torch, the CUDA context and compiled code loaded."""

from __future__ import annotations

import math
import os
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist

from ablate.data import Corpus
from ablate.execution.node_files import NodeFiles
from ablate.execution.placement import Placement
from ablate.execution.recovery import is_unwritable
from ablate.execution.sending import get
from ablate.files import make_folder
from ablate.tasks.contract import Job, Order, Result, Trainer
from ablate.tasks.loop_trainer import LoopTrainer, Train
from ablate.tasks.program import ProgramTrainer
from ablate.tasks.recorder import FolderRecorder
from ablate.tasks.stack_trainer import Opened, train_stack
from ablate.tracking.curve import BusyError, CurveWriter
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import ENDED
from ablate.training.loop import train
from ablate.training.parallel import Alone, DataParallel, Group, stay_on_loopback
from ablate_model.own_code import LIBRARY
from ablate_model.own_modules import describe_error

LOOPBACK = "127.0.0.1"
MEETING_S = 0.2  # between questions for the address of a group


@dataclass(frozen=True)
class Seat:
    """The place of a worker in a group of `size`, whose workers meet at the file `meeting`, or through the courier
    under its name."""

    rank: int
    size: int
    meeting: Path


class RunWorker:
    """Trains runs. The driver makes it a Ray actor with two threads: one trains, the other receives `stop` and `cut`.

    Only language models need a corpus. With a `seat`, it trains each run together with the other workers of its group.
    The `courier` brings the files of the driver if this node does not see them.
    """

    def __init__(
        self,
        study: Path,
        corpus: Corpus | None,
        placement: Placement,
        seat: Seat | None = None,
        courier: Any = None,
        *,
        train: Train = train,
    ) -> None:
        self.files, self.threads = NodeFiles(study, courier), placement.cpus
        self.store, self.corpus = StudyFolder(self.files.study), self.files.find_corpus(corpus)
        LIBRARY.trust(self.store.code)  # the driver wrote it
        self._stopped: set[str] = set()  # runs, by id: the worker goes on with others
        self._cuts: dict[str, str] = {}  # reasons, by run id
        # Ray hides the GPUs of other workers, but not from a worker without a share of a GPU.
        self.device = "cuda" if placement.gpus and torch.cuda.is_available() else "cpu"
        # Inductor reads this when it is loaded. By default, each process that compiles starts up to 32 compilers.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(placement.count_compilers(os.cpu_count() or 1)))
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.group: Group = Alone()
        if seat is not None:
            if ray.util.get_node_ip_address() == LOOPBACK:
                stay_on_loopback()
            self.group = DataParallel(seat.rank, seat.size, _find_meeting(seat, courier), torch.device(self.device))
        self._loop = LoopTrainer(self.corpus, self.device, self.threads, self.group, train)
        self._program = ProgramTrainer(self.device, self.threads)

    def ready(self) -> str:
        """Return the host and the process id, after this process has met its group."""
        return self.name

    def stop(self, run_ids: Sequence[str]) -> None:
        """Ask these runs to save a checkpoint and return."""
        self._stopped.update(run_ids)

    def cut(self, run_id: str, reason: str) -> None:
        """End this run for good, because of early stopping."""
        self._cuts[run_id] = reason

    def train_all(self, jobs: Sequence[Job]) -> Sequence[Result]:
        """Train runs to their ends: one as `train` does, or several of one arm as a stack.

        Where the files of runs travel, which they do one at a time, so do the runs of a stack.
        """
        if len(jobs) == 1 or not self.files.is_shared:
            return [self.train(job) for job in jobs]
        with ExitStack() as leases:
            opened = [self._open(job, leases) for job in jobs]
            ready = [item for item in opened if isinstance(item, tuple)]
            orders = [self._order(job, recorder) for job, recorder in ready]
            recorders = [recorder for _, recorder in ready]
            trained = iter(self._attempt(recorders, lambda: train_stack(self._loop, ready, orders)) if ready else ())
            return [next(trained) if isinstance(item, tuple) else item for item in opened]

    def train(self, job: Job) -> Result:
        """Train a run to its end, from its checkpoint if it has one, unless another process trains it.

        An error of the run is written to its status, with the traceback. It is raised to the caller only if the status
        cannot be written, or if the study's folder is not writable, because then no other run can continue either. A
        worker of a group raises every error, because the others wait for it and the caller has to end them. Raises
        `RecordError` if the curve is not a writable file.
        """
        trainer: Trainer = self._program if "program" in job.config else self._loop
        if self.group.rank:
            return trainer.assist(self.files.localize(job))
        with ExitStack() as lease:
            opened = self._open(job, lease)
            if not isinstance(opened, tuple):
                trainer.decline()
                return opened
            (own, recorder), order = opened, self._order(*opened)
            return self._attempt([recorder], lambda: [trainer.train(own, recorder.folder, recorder, order)])[0]

    def _open(self, job: Job, leases: ExitStack) -> Opened | Result:
        """Lease a run until the end of `leases`. Returns the job with the paths of this node and a recorder, or why
        there is nothing to train."""
        try:
            job = leases.enter_context(self.files.opened(job))
            folder = self.store.run(job.run_id)
            make_folder(folder.path)
            curve = leases.enter_context(CurveWriter(folder.curve))
        except BusyError:
            return "busy"
        status = folder.read_status()
        if folder.has_ended(status, cut_counts=job.cut_counts):
            return status.state  # type: ignore[return-value]
        started = replace(status, state="running", error="", worker=self.name)
        recorder = FolderRecorder(folder, curve, started, torch.device(self.device))
        recorder.snapshot_every = job.directions.get("snapshot_every", ())
        return job, recorder

    def _attempt(self, recorders: Sequence[FolderRecorder], train: Callable[[], Sequence[Result]]) -> Sequence[Result]:
        """Train, and write an error to the status of every run that has not ended by then."""
        try:
            with ExitStack() as writing:
                for recorder in recorders:
                    writing.enter_context(recorder)
                return train()
        except Exception as error:
            if self.group.size > 1:
                raise
            # One variant's error must not take the others down.
            left = [recorder for recorder in recorders if recorder.status.state not in ENDED]
            text = describe_error(error) or traceback.format_exc()
            try:
                for recorder in left:
                    recorder.write_status("failed", error=text)
            except OSError:
                raise error from None  # the driver reports it, because the status cannot
            if is_unwritable(error, self.store.path):
                raise
            return [recorder.status.state for recorder in recorders]  # type: ignore[misc]

    def _order(self, job: Job, recorder: FolderRecorder) -> Order:
        pause_step = job.directions.get("pause_step", math.inf)

        def cut_reason() -> str:
            waits = "waits until the best trials are known" if recorder.status.step >= pause_step else ""
            return self._cuts.get(job.run_id, waits)

        def should_stop() -> bool:
            return job.run_id in self._stopped or bool(cut_reason()) or self.files.has_failed

        return Order(should_stop, cut_reason)

    def leave(self) -> None:
        """Remove what this worker's node only has for it."""
        self.files.leave()


def _find_meeting(seat: Seat, courier: Any) -> Any:
    """Where the workers of a group meet: at a file, or on a cluster that may share none, at an address of the first."""
    if courier is None:
        return dist.FileStore(str(seat.meeting), seat.size)  # type: ignore[attr-defined]
    if seat.rank == 0:
        host = ray.util.get_node_ip_address()
        store = dist.TCPStore(host, 0, seat.size, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        get(courier.meet.remote(seat.meeting.name, f"{host}:{store.port}"))
        return store
    while not (address := get(courier.meet.remote(seat.meeting.name))):
        time.sleep(MEETING_S)
    host, _, port = address.rpartition(":")
    return dist.TCPStore(host, int(port), seat.size, is_master=False)  # type: ignore[attr-defined]
