"""The contract between a worker and a task: how a run is trained, and how it ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ablate.tasks.recorder import FolderRecorder
from ablate.tracking.folders import RunFolder

Result = Literal["finished", "diverged", "failed", "stopped", "busy"]


@dataclass(frozen=True)
class Job:
    """A run to train. `config` is the content of config.json, and `manifest` is what the driver knows about the run.

    With `cut_counts`, a run that early stopping cut counts as ended; otherwise it resumes where it was cut.
    `directions` tell the task what does not change the result, such as where files are.
    """

    run_id: str
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    cut_counts: bool = False
    directions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Order:
    """What the driver asks of a run in progress: `should_stop` is true once it has to end, and `cut_reason` says why if
    it ends for good."""

    should_stop: Callable[[], bool]
    cut_reason: Callable[[], str]

    def has_cut(self) -> bool:
        """Tell whether the run has to end for good."""
        return bool(self.cut_reason())


class Trainer(ABC):
    """Trains the runs of one task in a worker process."""

    @abstractmethod
    def train(self, job: Job, folder: RunFolder, recorder: FolderRecorder, order: Order) -> Result:
        """Train a run to its end, or until it is asked to stop, and write how it ended to its status.

        An error that it raises is written to the status by the worker.
        """

    def assist(self, job: Job) -> Result:
        """Train a run as a member of a group whose first worker keeps the records."""
        raise NotImplementedError(f"{type(self).__name__} trains each run in one worker")

    def decline(self) -> None:  # noqa: B027 - a trainer without a group tells no other worker
        """Tell the other workers of the group that there is nothing to train."""
