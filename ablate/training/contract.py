"""What a training run is given, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ablate_model import ModelConfig
from ablate_model.gpt import HeadedModel

Metrics = dict[str, float]  # by their names in a line of the curve
Batch = tuple[npt.NDArray[np.generic], ...]  # arrays with the same number of rows


class TrainingTask(ABC):
    """What the loop trains: a model, its batches, its loss and its evaluation.

    Every method is a pure function of its arguments, so a resumed run needs no position in the data, and all arms of a
    seed see the same batches. Arrays have the same shape in every step, except for their number of rows.
    """

    model: ModelConfig
    tokens_per_row: int  # tokens that a row of a batch counts as in a curve; the model has FLOPs for each
    n_sums: int  # what `measure` returns
    measures_on_device: ClassVar[bool] = False  # whether `measure` never waits for the device

    @abstractmethod
    def batch(self, seed: int, step: int, n_rows: int) -> Batch:
        """Return the rows that optimizer step `step` (from 1) trains on."""

    @abstractmethod
    def loss(self, model: Any, *batch: Tensor) -> Tensor:
        """Compute the training loss of some rows of a batch.

        The mean over parts of equal size must be the loss of the whole batch.
        """

    @abstractmethod
    def validation_batches(self, seed: int, step: int) -> Iterator[Batch]:
        """Yield what an evaluation after `step` measures."""

    def validation_key(self, step: int) -> Hashable:  # noqa: ARG002 - most tasks can make batches again
        """Return a key that is the same for all steps whose evaluations measure the same batches, or None."""
        return None

    @abstractmethod
    def measure(self, model: Any, *batch: Tensor) -> Tensor:
        """Return sums over the rows of a validation batch, [n_sums]. The loop adds them up in float64."""

    @abstractmethod
    def conclude(self, sums: Sequence[float]) -> dict[str, float]:
        """Turn the sums over all batches into metrics, by their names in the curve."""

    def ends_phase(self, step: int) -> bool:  # noqa: ARG002 - most tasks have no phases
        """Tell if a phase ends with this step, where an evaluation is due."""
        return False

    def summarize(self, step: int, metrics: Mapping[str, float], reached: list[float], *, is_last: bool) -> Metrics:  # noqa: ARG002
        """Return further metrics at an evaluation. A task with phases adds what it reached at the end of a phase to
        `reached`, which a checkpoint keeps."""
        return {}


class Recorder(Protocol):
    """Keeps the curve and the checkpoints of a run."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the curve."""

    def save(self, state: dict[str, Any]) -> None:
        """Copy or write a checkpoint before this returns, because training continues to change its tensors."""

    def is_writing(self) -> bool:
        """Tell if an earlier checkpoint is still being written."""

    def load(self) -> dict[str, Any] | None:
        """Return the last checkpoint, or None."""

    def wants_weights(self, step: int) -> bool:
        """Tell if the weights after this step are to be kept, because they will be evaluated."""

    def keep_weights(self, step: int, weights: Mapping[str, Any]) -> None:
        """Copy or write the weights after a step, because training continues to change them."""

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
    model: HeadedModel
    micro_batch_size: int | None = None
