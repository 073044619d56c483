"""The recorder of the training loop, which writes to the folder of the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from ablate.errors import RecordError
from ablate.files import make_folder
from ablate.tasks.background import Background
from ablate.tracking.curve import CurveWriter
from ablate.tracking.evaluations import snapshot_path
from ablate.tracking.folders import RunFolder
from ablate.tracking.study_record import State, Status
from ablate.training.checkpoint import HostCopy, read_checkpoint, write_checkpoint, write_weights
from ablate.training.device import peak_memory_bytes

HEARTBEAT_S = 5.0
CUT = "stopped early, at step"


class Assistant:
    """The recorder of a process that helps to train a run, while another process keeps its records."""

    def log(self, record: Mapping[str, Any]) -> None: ...

    def wants_weights(self, step: int) -> bool:  # noqa: ARG002 - the other process keeps them
        return False

    def keep_weights(self, step: int, weights: Mapping[str, Any]) -> None: ...

    def beat(self, step: int) -> None: ...

    def save(self, state: dict[str, Any]) -> None: ...

    def is_writing(self) -> bool:
        return False

    def load(self) -> None: ...


class FolderRecorder:
    """Curve lines, checkpoints, weights, and a heartbeat in the status.

    Checkpoints and weights are written by another thread while training goes on, one file at a time. As a context, it
    waits for the last one. An error of that thread is raised by the next call that writes, or at the end.

    The time between heartbeats comes from a monotonic clock; `now` only gives their date.
    """

    def __init__(
        self,
        folder: RunFolder,
        curve: CurveWriter,
        status: Status,
        device: torch.device,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder, self.curve, self.status = folder, curve, status
        self.device, self.now = device, now
        self.n_steps = status.n_steps
        self.snapshot_every: Sequence[int] = ()  # steps between weights to keep, once for each evaluation
        self.measures_itself, self.memory_bytes = True, 0  # of a program, whose memory is not this process's
        self._began = time.monotonic() - status.took_s
        self._beaten = -HEARTBEAT_S
        self._background = Background()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish_writing()

    def is_writing(self) -> bool:
        return self._background.is_busy

    def finish_writing(self) -> None:
        """Wait until the last checkpoint or weights are on disk, and raise the error that prevented it."""
        self._background.finish()

    def log(self, record: Mapping[str, Any]) -> None:
        self.curve.append(record)
        self.beat(record["step"])

    def wants_weights(self, step: int) -> bool:
        return any(step % every == 0 for every in self.snapshot_every)

    def keep_weights(self, step: int, weights: Mapping[str, Any]) -> None:
        """Keep the weights after a step beside the run's other files, until they have been evaluated."""
        path = snapshot_path(self.folder, step)
        make_folder(path.parent)
        self.write_weights(path, weights)

    def drop_checkpoint(self) -> None:
        """Leave out a checkpoint that waits while those of other runs are written, because the run has finished."""
        self._background.drop()

    def write_weights(self, path: Path, weights: Mapping[str, Any]) -> None:
        """Copy weights, and write them while training goes on."""
        self.finish_writing()  # before there is another copy
        copy = HostCopy(weights)
        self._background.start(lambda: write_weights(path, copy.ready()))

    def beat(self, step: int) -> None:
        """Write a sign of life, at most every few seconds."""
        self.status = replace(self.status, step=step)
        if time.monotonic() - self._beaten >= HEARTBEAT_S:
            self.write_status("running")

    def save(self, state: dict[str, Any]) -> None:
        """Copy a checkpoint, and write it while training goes on, with the curve's length and checksum of now, so that
        a resumed run can check that they match.

        The curve is written to the disk first, because a checkpoint without its curve is useless.
        """
        self.finish_writing()
        copy = HostCopy({**state, "curve": [self.curve.n_bytes, self.curve.crc32]})
        self.status = replace(self.status, step=state["progress"]["step"])

        def write() -> None:
            self.curve.sync()
            write_checkpoint(self.folder.checkpoint, copy.ready())

        self._background.start(write)

    def load(self) -> dict[str, Any] | None:
        """Read the last checkpoint, and cut the curve back to its length then. Without one: None, and an empty curve.

        A checkpoint that cannot be read, or whose curve is damaged, is noted and ignored.
        """
        self.finish_writing()
        try:
            state = read_checkpoint(self.folder.checkpoint)
            if state is not None and not self.curve.rewind(*state.pop("curve", (-1, 0))):
                raise RecordError(f"{self.folder.curve} is not the curve that the checkpoint was saved with")
        except RecordError as error:
            state = None
            self.note(f"training started again from step 0: {error}")
        if state is None:
            self.curve.rewind(0, 0)
        return state

    def _peak_bytes(self) -> int:
        return peak_memory_bytes(self.device) if self.measures_itself else self.memory_bytes

    def note(self, text: str) -> None:
        self.status = replace(self.status, notes=(*self.status.notes, text))

    def note_cut(self, reason: str) -> None:
        """Note that the run ends before its last step. The note goes if the run goes on after all."""
        self.note(f"{CUT} {self.status.step}: {reason}")

    def write_status(self, state: State, error: str = "") -> None:
        if state == "running":
            self.status = replace(self.status, notes=tuple(n for n in self.status.notes if not n.startswith(CUT)))
        self.status = replace(
            self.status,
            state=state,
            error=error,
            n_steps=self.n_steps,
            heartbeat=self.now(),
            took_s=round(time.monotonic() - self._began, 3),
            memory_bytes=max(self.status.memory_bytes, self._peak_bytes()),
            curve=(self.curve.n_bytes, self.curve.crc32) if state in ("finished", "diverged") else None,
        )
        self.folder.write_status(self.status)
        self._beaten = time.monotonic()
