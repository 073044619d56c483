"""Capability crossings: how much sooner an arm reaches the baseline's final result of an evaluation along training.

An arm can be faster in loss and no faster to recall. The speedup of a capability is defined like that of the loss: the
cost at which the baseline ends, divided by the cost at which the arm crosses the baseline's final value for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ablate.analysis.curve_columns import Floats
from ablate.analysis.evaluations import (
    Cell,
    EvaluationResult,
    Measured,
    collect,
    compare_evaluations,
    newest_records,
)
from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve
from ablate.analysis.speedup import SpeedUp, speed_ups
from ablate.metrics import Metric
from ablate.tracking.evaluations import EvaluationRow, Level

MIN_POINTS = 3  # with fewer, a crossing would be found between the start and the end
COSTS = ("tokens", "flops", "wall_s")


@dataclass(frozen=True)
class Capability:
    """The speedup of an arm to the baseline's final value of a metric in the cell `within`, on one axis of cost.

    `points` is the number of evaluations per run. If the baseline ends at chance there is no speedup, as `note` says.
    """

    evaluation: str
    metric: str
    within: Mapping[str, Level]
    points: int
    speedup: SpeedUp

    def to_dict(self) -> dict[str, Any]:
        row = self.speedup.to_dict()
        del row["within"], row["target"]
        return {
            "evaluation": self.evaluation,
            "metric": self.metric,
            "within": dict(self.within),
            "points": self.points,
            **{"target_value" if name == "target_loss" else name: value for name, value in row.items()},
        }


def find_capabilities(results: Results, finals: tuple[EvaluationResult, ...] | None = None) -> tuple[Capability, ...]:
    """Find the crossings of all metrics that have a better direction and were measured along training."""
    records = newest_records(results)
    if not any(record.step < run.last_step for run, record in records):
        return ()
    at_chance = {
        (row.evaluation, row.metric, tuple(row.within.items()), row.arm)
        for row in (compare_evaluations(results) if finals is None else finals)
        if row.is_at_chance
    }
    by_step: dict[tuple[str, str, Cell], dict[int, Measured]] = {}
    for step in sorted({record.step for _, record in records}):
        for measured in collect([pair for pair in records if pair[1].step == step]):
            by_step.setdefault((measured.evaluation, measured.metric, measured.cell), {})[step] = measured
    found: list[Capability] = []
    for (evaluation, name, cell), steps in by_step.items():
        first = next(iter(steps.values()))
        if first.direction is None or len(steps) < MIN_POINTS:
            continue
        traced = _trace(results, steps, Metric("capability", first.direction))
        if traced is None:
            continue
        for row in speed_ups(traced, ("final",)):
            points = max((run.columns["step"].size for run in traced.runs_of(row.arm)), default=0)
            if (evaluation, name, cell, row.baseline) in at_chance:
                row = _without_number(row)
            found.append(Capability(evaluation, name, dict(cell), points, row))
    return tuple(found)


def _without_number(row: SpeedUp) -> SpeedUp:
    note = "the baseline ends at chance"
    return SpeedUp(row.arm, row.baseline, row.within, row.axis, row.target, bound="not_determined", note=note)


def _trace(results: Results, steps: Mapping[int, Measured], metric: Metric) -> Results | None:
    """The study with the evaluations in place of the curves. None if no run was evaluated often enough."""
    runs = [
        traced
        for run in results.runs
        if (traced := _trace_run(run, {s: m.rows.get(run.arm, {}).get(run.seed) for s, m in steps.items()}, metric))
    ]
    if not runs:
        return None
    kept = {(run.arm, run.seed) for run in runs}
    record = replace(
        results.record,
        metrics={metric.name: metric.direction},
        smallest_effect=None,
        runs=tuple(run for run in results.record.runs if (run.arm, run.seed) in kept),
    )
    return Results(record, tuple(runs))


def _trace_run(run: RunCurve, rows: Mapping[int, EvaluationRow | None], metric: Metric) -> RunCurve | None:
    known = {step: row.value for step, row in rows.items() if row is not None and row.value is not None}
    if len(known) < MIN_POINTS or run.last_step not in known:
        return None
    at = np.array(list(known), np.float64)
    columns: dict[str, Floats] = {name: np.full(at.size, np.nan) for name in run.columns}
    columns |= {name: _interpolate(at, run, name) for name in COSTS if name in run.columns}
    columns |= {"step": at, metric.name: np.array(list(known.values()), np.float64)}
    return replace(run, columns=columns, metrics=(metric,))


def _interpolate(at: Floats, run: RunCurve, name: str) -> Floats:
    """A cost at these steps; costs grow steadily between the lines of a curve."""
    steps, cost = run.columns["step"], run.columns[name]
    known = np.isfinite(cost)
    if not known.any():
        return np.full(at.size, np.nan)
    return np.interp(at, np.concatenate(([0.0], steps[known])), np.concatenate(([0.0], cost[known])))
