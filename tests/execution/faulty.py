"""Workers in which something really breaks. A marker file in the study's folder makes it happen only once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch

from ablate.execution import node_files, sending
from ablate.execution.worker import RunWorker
from ablate.tasks.contract import Job, Result
from ablate.training.checkpoint import read_checkpoint
from ablate.training.contract import Outcome
from ablate.training.loop import train

SUSPENDED = "suspended"  # the marker file of a worker that hangs


def _is_first(worker: RunWorker, name: str) -> bool:
    try:
        (worker.store.path / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class _FaultyWorker(RunWorker):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, train=self.break_and_train)

    def break_and_train(self, *arguments: Any, should_stop: Callable[[], bool], **options: Any) -> Outcome:
        raise NotImplementedError


class SuspendedWorker(_FaultyWorker):
    """Hangs in the middle of the first run, like a process with a stuck GPU."""

    def break_and_train(self, *arguments: Any, should_stop: Callable[[], bool], **options: Any) -> Outcome:
        self.steps = 0

        def suspend() -> bool:
            self.steps += 1
            if self.group.rank == self.group.size - 1 and self.steps == 7 and _is_first(self, SUSPENDED):
                os.kill(os.getpid(), signal.SIGSTOP)
            return should_stop()

        return train(*arguments, should_stop=suspend, **options)


class LosingWorker(_FaultyWorker):
    """In a group of processes, dies once in the middle of standard attention, and has memory for only one sequence of
    any other attention."""

    def break_and_train(self, *arguments: Any, should_stop: Callable[[], bool], **options: Any) -> Outcome:
        def die() -> bool:
            self.steps += 1
            if model.attention.name == "standard" and self.steps == 7 and _is_first(self, "lost"):
                os.kill(os.getpid(), signal.SIGKILL)
            return should_stop()

        model, settings, self.steps = arguments[0].model, arguments[1], 0
        if self.group.rank and model.attention.name != "standard" and settings.micro_batch_size != 1:
            raise torch.OutOfMemoryError("no room")
        return train(*arguments, should_stop=die if self.group.rank else should_stop, **options)


class TroubledWorker(_FaultyWorker):
    """Dies as from a signal: for differential attention with more than 2 sequences at once, always in the middle of the
    linear ensemble, and twice before standard attention begins. Raises the first time that it trains the second
    differential attention."""

    def train(self, job: Job) -> Result:
        if job.config["model"]["attention"]["name"] == "standard" and any(_is_first(self, name) for name in "ab"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train(job)

    def break_and_train(self, *arguments: Any, should_stop: Callable[[], bool], **options: Any) -> Outcome:
        name, settings, recorder = arguments[0].model.attention.name, arguments[1], arguments[3]
        is_large = (settings.micro_batch_size or settings.batch_size) > 2
        if name == "differential" and is_large:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "differential_v2" and _is_first(self, "broken"):
            raise ZeroDivisionError("a bug in this variant")

        def die() -> bool:
            if name == "linear_ensemble" and recorder.status.step == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return should_stop()

        return train(*arguments, should_stop=die, **options)


class SlowWorker(_FaultyWorker):
    """Takes long enough per step for a test to act in between."""

    def break_and_train(self, *arguments: Any, should_stop: Callable[[], bool], **options: Any) -> Outcome:
        def wait() -> bool:
            time.sleep(0.1)
            return should_stop()

        return train(*arguments, should_stop=wait, **options)


class BlindWorker(RunWorker):
    """Believes that its node does not see the study's folder."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        node_files.has_content = lambda *_: False  # type: ignore[assignment]
        sending.LOOK_S = 0.05
        super().__init__(*arguments, **options)
        assert not self.files.is_shared


class DyingBlindWorker(BlindWorker):
    """Dies once, after the checkpoint of step 8 has arrived at the driver. Notes where the next attempt resumes."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments, train=self.break_and_train)

    def break_and_train(self, *arguments: Any, should_stop: Callable[[], bool], **options: Any) -> Outcome:
        run_recorder, home = arguments[3], self.files.home
        arrived = home / run_recorder.folder.path.name / "checkpoint.pt"
        load = run_recorder.load

        def note_resumption() -> dict[str, Any] | None:
            state = load()
            if state is not None:
                (home / "resumed").write_text(str(state["progress"]["step"]))
            return state

        def die() -> bool:
            state = read_checkpoint(run_recorder.folder.checkpoint)
            if state is not None and state["progress"]["step"] == 8 and not (home / "resumed").exists():
                content = run_recorder.folder.checkpoint.read_bytes()
                while not arrived.exists() or arrived.read_bytes() != content:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            return should_stop()

        run_recorder.load = note_resumption
        return train(*arguments, should_stop=die, **options)
