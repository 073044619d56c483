"""A worker process. It trains one run after another, and keeps torch, the CUDA context and compiled code loaded."""

from __future__ import annotations

import json
import os
import socket
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import ray
import torch
from safetensors.torch import save

from ablate.data import Corpus
from ablate.execution.failures import is_out_of_memory, is_unwritable
from ablate.execution.jobs import Job
from ablate.execution.placement import Placement
from ablate.execution.recorder import Assistant, FolderRecorder
from ablate.files import make_folder, write_atomic
from ablate.study.schema import TrainConfig
from ablate.tracking.curve import BusyError, CurveWriter
from ablate.tracking.folders import RunFolder, StudyFolder, write_json
from ablate.tracking.study_record import State
from ablate.training.contract import Outcome, Recorder
from ablate.training.device import free_memory
from ablate.training.loop import train
from ablate.training.parallel import Alone, DataParallel, Group, stay_on_loopback
from ablate_model import GPT, ModelConfig
from ablate_model.attention_backend import report_attention

LOOPBACK = "127.0.0.1"

Result = Literal["finished", "diverged", "failed", "stopped", "busy"]
Train = Callable[..., Outcome]  # `ablate.training.loop.train`, or a substitute


@dataclass(frozen=True)
class Seat:
    """The place of a worker in a group of `size`, whose workers find each other by the file `meeting`."""

    rank: int
    size: int
    meeting: Path


class RunWorker:
    """Trains runs. The driver makes it a Ray actor with two threads: one trains, the other receives `stop` and `cut`.

    With a `seat`, it trains each run together with the other workers of its group.
    """

    def __init__(
        self, study: Path, corpus: Corpus, placement: Placement, seat: Seat | None = None, *, train: Train = train
    ) -> None:
        self.store, self.corpus, self.threads, self._loop = StudyFolder(study), corpus, placement.cpus, train
        self._stop = threading.Event()
        self._cut: tuple[str, str] = ("", "")
        self._attention: dict[str, Mapping[str, str]] = {}
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
        if self.group.rank:
            return self._assist(job)
        folder = self.store.run(job.run_id)
        make_folder(folder.path)
        try:
            curve = CurveWriter(folder.curve)
        except BusyError:
            return self._decline("busy")
        with curve:
            status = folder.read_status()
            if folder.has_ended(status, cut_counts=job.cut_counts):
                return self._decline(status.state)  # type: ignore[arg-type]
            started = replace(status, state="running", error="", worker=self.name)
            recorder = FolderRecorder(folder, curve, started, torch.device(self.device))
            try:
                return self._train(job, folder, recorder)
            except Exception as error:
                if self.group.size > 1:
                    raise
                # One variant's error must not take the others down.
                try:
                    recorder.write_status("failed", error=traceback.format_exc())
                except OSError:
                    raise error from None  # the driver reports it, because the status cannot
                if is_unwritable(error, self.store.path):
                    raise
                return "failed"

    def _decline(self, result: Result) -> Result:
        """Let the group know that there is nothing to train."""
        self.group.share(lambda: None)
        return result

    def _assist(self, job: Job) -> Result:
        """Train a run as a member of a group, without keeping its records."""
        settings: TrainConfig | None = self.group.share(lambda: None)
        if settings is None:
            return "busy"
        return self._run_loop(job, settings, Assistant(), lambda: False).state

    def _run_loop(
        self, job: Job, settings: TrainConfig, recorder: Recorder, should_stop: Callable[[], bool]
    ) -> Outcome:
        return self._loop(
            ModelConfig.parse(job.config["model"]),
            settings,
            job.config["seed"],
            self.corpus,
            recorder,
            device=self.device,
            threads=self.threads,
            should_stop=should_stop,
            group=self.group,
        )

    def _train(self, job: Job, folder: RunFolder, recorder: FolderRecorder) -> Result:
        declared = TrainConfig.model_validate(job.config["train"])
        settings = _limit_micro_batch(declared, recorder.status.micro_batch_size)
        write_json(folder.config, job.config)
        recorder.n_steps = settings.steps
        recorder.write_status("running")
        self.group.share(partial(_limit_micro_batch, declared, recorder.status.micro_batch_size))
        while True:
            manifest = {**job.manifest, **self._describe(), "micro_batch_size": settings.micro_batch_size}
            write_json(folder.manifest, manifest, durable=False)  # it is written again at the end
            try:
                outcome = self._run_loop(
                    job, settings, recorder, lambda: self._stop.is_set() or self._cut[0] == job.run_id
                )
                break
            except Exception as error:
                smaller = settings.smaller_micro_batch() if is_out_of_memory(error) else None
                if smaller is None or self.group.size > 1:
                    raise
            settings = _limit_micro_batch(declared, smaller)
            recorder.status = replace(recorder.status, micro_batch_size=smaller)
            recorder.note(f"out of memory at step {recorder.status.step + 1}: {smaller} sequences at once from here on")
            free_memory(torch.device(self.device))  # of the failed step, before the next attempt
        attention = self._report_attention(job, settings, outcome.model)
        write_json(
            folder.manifest,
            {
                **manifest,
                "peak_memory_bytes": outcome.peak_memory_bytes,
                "micro_batch_size": outcome.micro_batch_size,
                "attention": attention,
                "attention_backend": f"{attention['backend']} ({attention['kernel']})",
            },
        )
        return self._conclude(job, folder, recorder, outcome)

    def _conclude(self, job: Job, folder: RunFolder, recorder: FolderRecorder, outcome: Outcome) -> Result:
        state: State = "finished" if outcome.state == "stopped" else outcome.state
        recorder.status = replace(recorder.status, step=outcome.step)
        if outcome.state == "stopped":
            if self._cut[0] != job.run_id:
                recorder.write_status("queued")
                return "stopped"
            recorder.note(f"stopped early, at step {outcome.step}: {self._cut[1]}")
        if state == "finished":
            write_weights(folder.weights, outcome.model.state_dict())
        recorder.write_status(state)
        if outcome.state != "stopped":  # a run that was cut can resume from its checkpoint
            folder.checkpoint.unlink(missing_ok=True)
        return state  # type: ignore[return-value]

    def _report_attention(self, job: Job, settings: TrainConfig, model: GPT) -> Mapping[str, str]:
        """Find the attention kernels of a run. This takes a forward pass, so it is cached across seeds."""
        key = json.dumps([job.config["model"], settings.attention_backend, settings.precision], sort_keys=True)
        if key not in self._attention:
            dtype = torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
            self._attention[key] = report_attention(model, dtype)
        return self._attention[key]

    def _describe(self) -> dict[str, Any]:
        name = torch.cuda.get_device_name() if self.device == "cuda" else _processor_name()
        return {
            "device": {"kind": self.device, "name": name, "host": socket.gethostname()},
            "threads": self.threads,
            "torch": torch.__version__,
        }


def write_weights(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write a model's tensors as safetensors."""
    write_atomic(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))


def _limit_micro_batch(train: TrainConfig, limit: int | None) -> TrainConfig:
    if limit is None or limit >= train.sequences_at_once:
        return train
    return train.model_copy(update={"micro_batch_size": limit})


@cache
def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
