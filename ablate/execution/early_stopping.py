"""Optional early stopping: rules that cut runs before the end of their budget.

A run that was cut counts as censored at the step where it stopped. Baselines are never cut, because they set every
target.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

from ablate.errors import GridError, suggest
from ablate.formatting import count
from ablate.metrics import LOSS, Metric
from ablate.plan import Plan, Run
from ablate.tracking.values import is_number

ETA = 3  # a third continues at each rung
N_RUNGS = 3
MIN_GAIN = 1e-3  # nats; a smaller gain is no improvement. For a metric of unknown scale, every gain is one.


class Stopping(ABC):
    """Judges a run by the lines of its curve as they arrive."""

    @abstractmethod
    def judge(self, run: Run, records: Sequence[Mapping[str, Any]]) -> str:
        """Why this run should end now; empty if it may continue."""


@final
class Asha(Stopping):
    """Asynchronous successive halving across arms (Li et al. 2020, arXiv 1810.05934, algorithm 2, without promotion).

    The rungs are at 1/27, 1/9 and 1/3 of an arm's steps. A run that reaches a rung continues if it is among the best
    third of the runs that have reached it, with the same seed and baseline. The first few always continue.
    """

    def __init__(self, metric: Metric = LOSS) -> None:
        self.metric = metric
        self._reached: dict[tuple[int, str, int], dict[str, float]] = {}

    def judge(self, run: Run, records: Sequence[Mapping[str, Any]]) -> str:
        reason = ""
        for rung in range(N_RUNGS):
            milestone = (run.arm.n_steps or math.inf) / ETA ** (N_RUNGS - rung)
            reached = self._reached.setdefault((run.seed, run.arm.baseline, rung), {})
            loss = next((loss for step, loss in _evaluations(records, self.metric) if step >= milestone), None)
            if loss is None or run.run_id in reached:
                continue
            reached[run.run_id] = loss
            place = sorted(reached.values()).index(loss) + 1
            if run.arm.name != run.arm.baseline and place > max(1, len(reached) // ETA) and len(reached) >= ETA:
                reason = reason or f"asha: number {place} of {len(reached)} runs at step {milestone:.0f}"
        return reason


@final
class Patience(Stopping):
    """Cuts a run whose metric has not become better for `evaluations` evaluations in a row."""

    def __init__(self, evaluations: int, metric: Metric = LOSS) -> None:
        self.evaluations, self.metric = evaluations, metric
        self.min_gain = MIN_GAIN if metric.is_loss else 0.0
        self._best: dict[str, tuple[float, int]] = {}

    def judge(self, run: Run, records: Sequence[Mapping[str, Any]]) -> str:
        best, since = self._best.get(run.run_id, (float("inf"), 0))
        for _, loss in _evaluations(records, self.metric):
            best, since = (loss, 0) if loss < best - self.min_gain else (best, since + 1)
        self._best[run.run_id] = (best, since)
        if run.arm.name == run.arm.baseline or since < self.evaluations:
            return ""
        return f"patience: no {self.metric.direction} {self.metric.label} for {count(since, 'evaluation')}"


def parse_stopping(rule: str | None, metric: Metric = LOSS) -> Stopping | None:
    """Read a rule from the command line, which judges by a metric. Raises `GridError` if there is no such rule."""
    if rule is None:
        return None
    name, _, number = rule.partition("=")
    if name == "asha" and not number:
        return Asha(metric)
    if name == "patience" and number.isdecimal() and int(number) > 0:
        return Patience(int(number), metric)
    raise GridError(f"--early-stop {rule}: no such rule{suggest(name, ('asha', 'patience=EVALUATIONS'))}")


def check_stopping(stopping: Stopping | None, plan: Plan) -> None:
    """Raises `GridError` if the rule needs to know how long runs are, and some arm does not say it."""
    if isinstance(stopping, Asha) and any(arm.n_steps is None for arm in plan.arms):
        message = "asha stops runs at shares of their steps, which are unknown: set program.steps, or use patience=N"
        raise plan.study.refuse(("program",), message)


def seed_from_curves(stopping: Stopping, plan: Plan, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Show the rule what an earlier driver saw, so that it judges as if the study had not been interrupted."""
    for run in plan.runs:
        stopping.judge(run, curves.get(run.run_id, ()))


def _evaluations(records: Sequence[Mapping[str, Any]], metric: Metric) -> list[tuple[int, float]]:
    """The step and the value of each evaluation. Values are turned so that lower is better."""
    name = metric.name
    return [(record["step"], metric.orient(record[name])) for record in records if is_number(record.get(name))]
