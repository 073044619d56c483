"""The score of a trial, from the curves of its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablate.analysis.convergence import cost_at, find_crossing
from ablate.analysis.curve_columns import CORE_COLUMNS
from ablate.errors import RecordError, suggest
from ablate.search.schema import Objective
from ablate.search.space import ArmSpace
from ablate_model import GPT

Curve = Sequence[Mapping[str, Any]]


def score_run(curve: Curve, objective: Objective) -> float:
    """The objective of a finished run, in the unit of its metric or in steps.

    Raises `RecordError` where no line of the curve has the metric.
    """
    points = points_of(curve, objective.metric)
    if not points:
        logged = dict.fromkeys(key for record in curve for key in record)
        raise RecordError(f"objective: {objective.metric!r} is never logged{suggest(objective.metric, sorted(logged))}")
    steps, values = np.array(points, np.float64).T
    if objective.target is None:
        return float(values[-1])
    position = find_crossing(values, objective.target)
    if position is not None:
        return cost_at(steps, position)
    return float(steps[-1] * (1 + values[-1] - objective.target))


def check_metrics(arm: ArmSpace, objectives: Sequence[Objective]) -> None:
    """Raises `ValueError` where the runs of an arm do not log a metric. Diagnostics depend on the model."""
    for objective in objectives:
        if objective.metric in CORE_COLUMNS:
            continue
        for resolved in arm.extremes():
            names = GPT.diagnostic_names(resolved.model)
            if objective.metric not in names:
                hint = suggest(objective.metric, (*CORE_COLUMNS, *names))
                raise ValueError(f"the runs of {arm.label or 'this search'} do not log {objective.metric!r}{hint}")


def score_trial(curves: Sequence[Curve], objectives: Sequence[Objective]) -> list[float]:
    """The mean of each objective over the seeds of a trial."""
    return [math.fsum(score_run(curve, objective) for curve in curves) / len(curves) for objective in objectives]


def points_of(curve: Curve, metric: str) -> list[tuple[int, float]]:
    """(step, value) of every line that has the metric."""
    return [(record["step"], record[metric]) for record in curve if record.get(metric) is not None]
