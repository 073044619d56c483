"""A worker process. It trains one run after another, and keeps torch, the CUDA context and compiled code loaded."""

from __future__ import annotations

import os
import socket
import threading
import traceback
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import torch

from ablate.data import Corpus
from ablate.execution.placement import Placement
from ablate.execution.recovery import is_unwritable
from ablate.files import make_folder
from ablate.tasks.contract import Job, Order, Result, Trainer
from ablate.tasks.loop_trainer import LoopTrainer, Train
from ablate.tasks.program import ProgramTrainer
from ablate.tasks.recorder import FolderRecorder
from ablate.tracking.curve import BusyError, CurveWriter
from ablate.tracking.folders import StudyFolder
from ablate.training.loop import train
from ablate.training.parallel import Alone, DataParallel, Group, stay_on_loopback
from ablate_model.own_code import LIBRARY
from ablate_model.own_modules import describe_error

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Seat:
    """The place of a worker in a group of `size`, whose workers find each other by the file `meeting`."""

    rank: int
    size: int
    meeting: Path


class RunWorker:
    """Trains runs. The driver makes it a Ray actor with two threads: one trains, the other receives `stop` and `cut`.

    Only language models need a corpus. With a `seat`, it trains each run together with the other workers of its group.
    """

    def __init__(
        self,
        study: Path,
        corpus: Corpus | None,
        placement: Placement,
        seat: Seat | None = None,
        *,
        train: Train = train,
    ) -> None:
        self.store, self.corpus, self.threads = StudyFolder(study), corpus, placement.cpus
        LIBRARY.trust(self.store.code)  # the driver wrote it
        self._stop = threading.Event()
        self._cut: tuple[str, str] = ("", "")
        # Ray hides the GPUs of other workers, but not from a worker without a share of a GPU.
        self.device = "cuda" if placement.gpus and torch.cuda.is_available() else "cpu"
        # Inductor reads this when it is loaded. By default, each process that compiles starts up to 32 compilers.
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(placement.count_compilers(os.cpu_count() or 1)))
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.group: Group = Alone()
        if seat is not None:
            if ray.util.get_node_ip_address() == LOOPBACK:
                stay_on_loopback()
            self.group = DataParallel(seat.rank, seat.size, seat.meeting, torch.device(self.device))
        self._loop = LoopTrainer(corpus, self.device, self.threads, self.group, train)
        self._program = ProgramTrainer(self.device, self.threads)

    def ready(self) -> str:
        """Return the host and the process id, after this process has met its group."""
        return self.name

    def stop(self) -> None:
        """Ask the run in progress to save a checkpoint and return."""
        self._stop.set()

    def cut(self, run_id: str, reason: str) -> None:
        """End this run for good, because of early stopping."""
        self._cut = (run_id, reason)

    def train(self, job: Job) -> Result:
        """Train a run to its end, from its checkpoint if it has one, unless another process trains it.

        An error of the run is written to its status, with the traceback. It is raised to the caller only if the status
        cannot be written, or if the study's folder is not writable, because then no other run can continue either. A
        worker of a group raises every error, because the others wait for it and the caller has to end them. Raises
        `RecordError` if the curve is not a writable file.
        """
        trainer: Trainer = self._program if "program" in job.config else self._loop
        if self.group.rank:
            return trainer.assist(job)
        folder = self.store.run(job.run_id)
        make_folder(folder.path)
        try:
            curve = CurveWriter(folder.curve)
        except BusyError:
            trainer.decline()
            return "busy"
        with curve:
            status = folder.read_status()
            if folder.has_ended(status, cut_counts=job.cut_counts):
                trainer.decline()
                return status.state  # type: ignore[return-value]
            started = replace(status, state="running", error="", worker=self.name)
            recorder = FolderRecorder(folder, curve, started, torch.device(self.device))
            recorder.snapshot_every = job.directions.get("snapshot_every", ())
            try:
                with recorder:
                    return trainer.train(job, folder, recorder, self._order(job.run_id))
            except Exception as error:
                if self.group.size > 1:
                    raise
                # One variant's error must not take the others down.
                try:
                    recorder.write_status("failed", error=describe_error(error) or traceback.format_exc())
                except OSError:
                    raise error from None  # the driver reports it, because the status cannot
                if is_unwritable(error, self.store.path):
                    raise
                return "failed"

    def _order(self, run_id: str) -> Order:
        def cut_reason() -> str:
            cut_id, reason = self._cut
            return reason if cut_id == run_id else ""

        return Order(lambda: self._stop.is_set() or self._cut[0] == run_id, cut_reason)
