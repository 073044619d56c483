"""Optuna's pruners as an early-stopping rule: the first seed of a trial decides for all of its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, final

from ablate.execution.early_stopping import Stopping
from ablate.plan import Run
from ablate.plan.tasks import metrics_of
from ablate.search.objective import oriented, points_of
from ablate.search.trials import Trials


@final
class Pruning(Stopping):
    """Reports every evaluation of a trial's first seed to Optuna, and stops the trial when the pruner says so."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        (self.objective,) = trials.problem.objectives
        self._reported: dict[str, int] = {}

    def judge(self, run: Run, records: Sequence[Mapping[str, Any]]) -> str:
        name, first = run.arm.name, self.trials.runs_of(run.arm)[0]
        running = next((s.running[name][0] for s in self.trials.searches if name in s.running), None)
        if running is None:
            return ""
        if run.run_id != first.run_id:
            return "its first seed was pruned" if self.trials.store.run(first.run_id).read_status().is_cut else ""
        if name not in self._reported:
            self._reported[name] = self._last_step(running)
        metric, is_steps = self.objective.metric, self.objective.target is not None
        turn = oriented(metric, metrics_of(self.trials.problem.study)) if is_steps else float  # steps are minimized
        for step, value in points_of(records, metric):
            if step > self._reported[name]:
                self._reported[name] = step
                running.report(turn(value), step)
                if step < (run.arm.n_steps or math.inf) and running.should_prune():
                    return f"{self.trials.problem.tuning.pruner.name}: pruned at step {step}"
        return ""

    @staticmethod
    def _last_step(running: Any) -> int:
        """The last step that an earlier process reported. Reads only one trial, because there may be thousands."""
        return max(running.storage.get_trial(running._trial_id).intermediate_values, default=0)
