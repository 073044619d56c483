"""The score of a trial, from the curves of its runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ablate.analysis.convergence import cost_at, find_crossing
from ablate.analysis.curve_columns import CORE_COLUMNS
from ablate.errors import RecordError, suggest
from ablate.metrics import LANGUAGE_MODEL, Direction, Metric
from ablate.search.schema import Objective
from ablate.search.space import ArmSpace
from ablate.study.program import COSTS

Curve = Sequence[Mapping[str, Any]]


def score_run(curve: Curve, objective: Objective, metrics: Mapping[str, Direction] = LANGUAGE_MODEL) -> float:
    """The objective of a finished run, in the unit of its metric or in steps. `metrics` are those of the runs.

    Raises `RecordError` where no line of the curve has the metric.
    """
    points = points_of(curve, objective.metric)
    if not points:
        logged = dict.fromkeys(key for record in curve for key in record)
        raise RecordError(f"objective: {objective.metric!r} is never logged{suggest(objective.metric, sorted(logged))}")
    steps, values = np.array(points, np.float64).T
    if objective.target is None:
        return float(values[-1])
    orient = oriented(objective.metric, metrics)
    losses, target = orient(values), orient(objective.target)
    position = find_crossing(losses, target)
    if position is not None:
        return cost_at(steps, position)
    return float(steps[-1] * (1 + losses[-1] - target))


def oriented(metric: str, metrics: Mapping[str, Direction]) -> Callable[[Any], Any]:
    """A function that turns the values of a column so that lower is better, as it is for all but known metrics."""
    return Metric(metric, metrics.get(metric, "lower")).orient


def check_metrics(
    arm: ArmSpace, objectives: Sequence[Objective], metrics: Mapping[str, Direction] = LANGUAGE_MODEL
) -> None:
    """Raises `ValueError` where the runs of an arm do not log a metric. Diagnostics depend on the model."""
    known = dict.fromkeys((*metrics, *(CORE_COLUMNS if arm.default.setup.trains_here else COSTS)))
    for objective in objectives:
        if objective.metric in known:
            continue
        for resolved in arm.extremes():
            names = resolved.setup.diagnostic_names()
            if objective.metric not in names:
                hint = suggest(objective.metric, (*known, *names))
                raise ValueError(f"the runs of {arm.label or 'this search'} do not log {objective.metric!r}{hint}")


def score_trial(
    curves: Sequence[Curve], objectives: Sequence[Objective], metrics: Mapping[str, Direction] = LANGUAGE_MODEL
) -> list[float]:
    """The mean of each objective over the seeds of a trial."""
    return [
        math.fsum(score_run(curve, objective, metrics) for curve in curves) / len(curves) for objective in objectives
    ]


def points_of(curve: Curve, metric: str) -> list[tuple[int, float]]:
    """(step, value) of every line that has the metric."""
    return [(record["step"], record[metric]) for record in curve if record.get(metric) is not None]
