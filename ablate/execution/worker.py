"""One worker process: it takes one run after another and keeps torch, the CUDA context and the compile cache warm."""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save

from ablate.data import Corpus
from ablate.errors import RecordError
from ablate.files import write_atomic
from ablate.study.schema import TrainConfig
from ablate.tracking.curve import BusyError, CurveWriter
from ablate.tracking.records import ENDED, Status
from ablate.tracking.store import RunFolder, Store, write_json
from ablate.training.checkpoint import read_checkpoint, write_checkpoint
from ablate.training.loop import Outcome, train
from ablate_model import ModelConfig

HEARTBEAT_S = 5.0

Result = Literal["finished", "diverged", "failed", "stopped", "busy"]


@dataclass(frozen=True)
class Job:
    """One run to train. `config` is the content of config.json, `manifest` what the driver knows of it."""

    run_id: str
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]


class RunWorker:
    """Trains runs. Made a Ray actor by the driver, with two threads: one trains, the other hears `stop`."""

    def __init__(self, study: Path, corpus: Corpus, threads: int) -> None:
        self.store, self.corpus, self.threads = Store(study), corpus, threads
        self._stop = threading.Event()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.name = f"{socket.gethostname()}:{os.getpid()}"

    def ready(self) -> str:
        """Returns once torch is imported and the worker can take a run."""
        return self.name

    def stop(self) -> None:
        """Ask the run in progress to save a checkpoint and return."""
        self._stop.set()

    def train(self, job: Job) -> Result:
        """Train one run to its end, from its checkpoint where it has one, unless somebody else does.

        Whatever the run raises is written to its status, with the traceback, and never to the caller.
        """
        folder = self.store.run(job.run_id)
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            curve = CurveWriter(folder.curve)
        except BusyError:
            return "busy"
        with curve:
            status = folder.read_status()
            if status.state in ENDED:
                return status.state  # type: ignore[return-value]
            recorder = FolderRecorder(folder, curve, replace(status, state="running", error="", worker=self.name))
            try:
                return self._train(job, folder, recorder)
            except Exception:  # noqa: BLE001 - one variant's error must not take the others down
                recorder.write_status("failed", error=traceback.format_exc())
                return "failed"

    def _train(self, job: Job, folder: RunFolder, recorder: FolderRecorder) -> Result:
        config = ModelConfig.parse(job.config["model"])
        settings = TrainConfig.model_validate(job.config["train"])
        write_json(folder.config, job.config)
        manifest = {**job.manifest, **self._describe()}
        write_json(folder.manifest, manifest)
        recorder.n_steps = settings.steps
        recorder.write_status("running")
        outcome = train(
            config,
            settings,
            job.config["seed"],
            self.corpus,
            recorder,
            device=self.device,
            threads=self.threads,
            should_stop=self._stop.is_set,
        )
        write_json(folder.manifest, {**manifest, "peak_memory_bytes": outcome.peak_memory_bytes})
        return self._conclude(folder, recorder, outcome)

    def _conclude(self, folder: RunFolder, recorder: FolderRecorder, outcome: Outcome) -> Result:
        if outcome.state == "stopped":
            recorder.write_status("queued")
            return "stopped"
        if outcome.state == "finished":
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in outcome.model.state_dict().items()}
            write_atomic(folder.weights, save(weights))
        recorder.write_status(outcome.state)
        folder.checkpoint.unlink(missing_ok=True)
        return outcome.state

    def _describe(self) -> dict[str, Any]:
        name = torch.cuda.get_device_name() if self.device == "cuda" else _processor_name()
        return {
            "device": {"kind": self.device, "name": name, "host": socket.gethostname()},
            "threads": self.threads,
            "torch": torch.__version__,
        }


class FolderRecorder:
    """The training loop's recorder over a run's folder: curve lines, checkpoints, and a heartbeat in the status."""

    def __init__(
        self, folder: RunFolder, curve: CurveWriter, status: Status, clock: Callable[[], float] = time.time
    ) -> None:
        self.folder, self.curve, self.status, self.clock = folder, curve, status, clock
        self.n_steps = status.n_steps

    def log(self, record: Mapping[str, Any]) -> None:
        self.curve.append(record)
        self.beat(record["step"])

    def beat(self, step: int) -> None:
        """A sign of life, written at most every few seconds."""
        self.status = replace(self.status, step=step)
        if self.clock() - self.status.heartbeat >= HEARTBEAT_S:
            self.write_status("running")

    def save(self, state: dict[str, Any]) -> None:
        write_checkpoint(self.folder.checkpoint, state)
        self.status = replace(self.status, step=state["progress"]["step"])

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, with the curve cut back to its step; None, and an empty curve, where there is none.

        A checkpoint that cannot be read is reported in the status and passed over.
        """
        state = None
        try:
            state = read_checkpoint(self.folder.checkpoint)
        except RecordError as error:
            self.status = replace(self.status, notes=(*self.status.notes, f"training began anew: {error}"))
        self.curve.cut(state["progress"]["step"] if state else 0)
        return state

    def write_status(self, state: Any, error: str = "") -> None:
        self.status = replace(self.status, state=state, error=error, n_steps=self.n_steps, heartbeat=self.clock())
        self.folder.write_status(self.status)


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")
