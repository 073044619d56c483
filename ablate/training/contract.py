"""What a training run is given to keep its records, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ablate_model import GPT


class Recorder(Protocol):
    """Keeps the curve and the checkpoints of a run."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the curve."""

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint before this returns, because training continues to change its tensors."""

    def load(self) -> dict[str, Any] | None:
        """Return the last checkpoint, or None."""

    def beat(self, step: int) -> None:
        """Give a sign of life, after each optimizer step and evaluation batch. It must be cheap."""


@dataclass(frozen=True)
class Outcome:
    """How training ended, after which step, and the resulting model.

    `diverged`: the training or validation loss was not finite at `step`. `stopped`: `should_stop` returned true, and a
    checkpoint was saved. `peak_memory_bytes` is the peak of the run's tensors on a GPU; on the CPU it is the peak of
    the whole process.
    """

    state: Literal["finished", "diverged", "stopped"]
    step: int
    wall_s: float
    peak_memory_bytes: int
    model: GPT
    micro_batch_size: int | None = None
