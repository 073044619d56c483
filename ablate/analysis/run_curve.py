"""One run of a study: its state, and its curve as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate.analysis.curve_columns import CORE_COLUMNS, Floats
from ablate.metrics import LOSS, Metric
from ablate.tracking.evaluations import EvaluationRecord
from ablate.tracking.reruns import Rerun
from ablate.tracking.study_record import ENDED, Status

AXES = ("steps", "tokens", "flops", "seconds", "gpu_seconds")
_COLUMN_OF_AXIS = {"steps": "step", "tokens": "tokens", "flops": "flops", "seconds": "wall_s", "gpu_seconds": "wall_s"}


@dataclass(frozen=True, eq=False)
class RunCurve:
    """One run: its state, and its curve as one array per column, nan where a line lacks the key.

    `columns` always holds `CORE_COLUMNS`, and steps strictly increase. `n_passed_over` counts the lines of the file
    that are not records. `is_altered` means that the file does not have the length and checksum that were noted when
    the run ended. `unread` says why the file could not be read. `evaluations` are the results of evaluations of its
    weights. `metrics` are those of the study; the first is the one by which arms are compared. `repeats` is the seed of
    an earlier run of the arm with the very same numbers. `reruns` are further runs of the same id, of which only the
    end is known. `extent` is the length (bytes) and the CRC-32 of the file that the columns were read from, or zeros if
    it is not known.
    """

    run_id: str
    arm: str
    seed: int
    n_steps: int
    status: Status
    columns: Mapping[str, Floats]
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    n_passed_over: int = 0
    is_altered: bool = False
    unread: str = ""
    evaluations: tuple[EvaluationRecord, ...] = ()
    reruns: tuple[Rerun, ...] = ()
    extent: tuple[int, int] = (0, 0)
    metrics: tuple[Metric, ...] = (LOSS,)
    repeats: int | None = None

    @property
    def metric(self) -> Metric:
        """The metric by which arms are compared."""
        return self.metrics[0]

    @property
    def last_step(self) -> int:
        """The last step in its status, or the end of the curve if that is incomplete."""
        ends_at = self._ends_at
        return ends_at if self.flaw else max(self.status.step, ends_at)

    @cached_property
    def flaw(self) -> str:
        """Why the curve of an ended run cannot be the one that it ended with; empty if it can."""
        if self.status.state not in ENDED:
            return ""
        if self.unread:
            return self.unread
        if self.repeats is not None:
            return f"its numbers are those of seed {self.repeats}, so what was trained does not depend on the seed"
        if isinstance(known := self.manifest.get("flaw"), str):
            return known
        if self.is_altered:
            return "curve.jsonl is not the file that the run ended with"
        steps = self.columns["step"]
        if not steps.size:
            return "the curve has no line"
        # Early stopping may end a run between two lines. Any other run ends with a line.
        n_allowed = float(np.diff(steps, prepend=0).max()) if self.status.is_cut else 1
        if 0 <= self.status.step - self._ends_at < n_allowed:
            return ""
        return f"curve.jsonl ends at step {self._ends_at}, status.json says {self.status.step}"

    @property
    def _ends_at(self) -> int:
        steps = self.columns["step"]
        return int(steps[-1]) if steps.size else 0

    @property
    def state(self) -> str:
        """The state in its status, or the more precise `repeated`, `stopped early` or `incomplete curve`."""
        if self.repeats is not None:
            return "repeated"
        return "incomplete curve" if self.flaw else "stopped early" if self.was_stopped else self.status.state

    @property
    def is_diverged(self) -> bool:
        return self.status.state == "diverged"

    @cached_property
    def has_ended(self) -> bool:
        """Whether its numbers count: it finished or diverged, was evaluated, and its curve is complete."""
        return self.status.state in ENDED and not self.flaw and self.evaluation_loss.size > 0

    @cached_property
    def is_whole(self) -> bool:
        """Whether it was trained to the end of its budget."""
        return self.status.state == "finished" and not self.flaw and self.last_step >= self.n_steps

    @property
    def was_stopped(self) -> bool:
        """Whether early stopping ended it before the end of its budget."""
        return self.status.state == "finished" and not self.flaw and self.last_step < self.n_steps

    @cached_property
    def n_gpus(self) -> float:
        """The number or fraction of GPUs that the run held; 0 on a CPU."""
        if device_of(self.manifest).get("kind") != "cuda":
            return 0.0
        gpus = self.manifest.get("gpus")
        return float(gpus) if isinstance(gpus, int | float) and gpus > 0 else 1.0

    @property
    def n_sharing(self) -> int:
        """How many runs shared its device at a time: its stack, and other workers unless it has a whole GPU."""
        return self.n_stacked * (1 if self.n_gpus >= 1 else self.manifest.get("shared_by") or 1)

    @cached_property
    def n_stacked(self) -> int:
        """How many seeds trained as one batch of models, whose lines have the seconds of all together."""
        return self.manifest.get("stacked") or 1

    def cost(self, axis: str) -> Floats:
        """Return the cost up to each line on one of `AXES`: steps, tokens, FLOPs, s, or GPU s."""
        column = self.columns[_COLUMN_OF_AXIS[axis]]
        if self.why_no_cost(axis):
            return np.full_like(column, np.nan)
        return column * self.n_gpus / self.n_stacked if axis == "gpu_seconds" else column

    def why_no_cost(self, axis: str) -> str:
        """Say why a cost of an imported run, or of a program, was left out; empty if it was not."""
        known = self.manifest.get("no_cost")
        reason = known.get(_COLUMN_OF_AXIS[axis]) if isinstance(known, Mapping) else None
        return reason if isinstance(reason, str) else ""

    @property
    def step_unit(self) -> str:
        """The unit of steps that are not training steps: `validation` for epochs and the like."""
        unit = self.manifest.get("step_unit")
        return unit if isinstance(unit, str) else ""

    def cost_of_evaluations(self, axis: str) -> Floats:
        if axis not in self._costs:
            self._costs[axis] = self.cost(axis)[self._evaluated]
        return self._costs[axis]

    @cached_property
    def _costs(self) -> dict[str, Floats]:
        """The cost of each evaluation, by axis. Reports ask for it once per target."""
        return {}

    @cached_property
    def evaluation_loss(self) -> Floats:
        """The values of the metric, one per evaluation: validation losses (nats per token) of a language model."""
        return self._values_of(self.metric)[self._evaluated]

    @cached_property
    def _evaluated(self) -> NDArray[np.bool_]:
        return np.isfinite(self._values_of(self.metric))

    def _values_of(self, metric: Metric) -> Floats:
        return self.columns.get(metric.name, np.full(self.columns["step"].size, np.nan))

    @property
    def final_loss(self) -> float:
        """The last value of the metric of a whole run, such as its validation loss; nan for any other."""
        return self.final_value(self.metric)

    def final_value(self, metric: Metric) -> float:
        """The last value of one of the study's metrics, if the run is whole; nan otherwise."""
        values = self._values_of(metric)
        known = values[np.isfinite(values)]
        return float(known[-1]) if self.is_whole and known.size else float("nan")

    @property
    def diagnostics(self) -> tuple[str, ...]:
        known = {*CORE_COLUMNS, *(metric.name for metric in self.metrics)}
        return tuple(name for name in self.columns if name not in known)


def device_of(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    device = manifest.get("device")
    return device if isinstance(device, Mapping) else {}
