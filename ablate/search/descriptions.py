"""Ranges, settings, sizes and horizons of a search as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ablate.formatting import count
from ablate.metrics import LANGUAGE_MODEL, LOSS, Direction, Metric, list_metrics
from ablate.report.notation import join_with_and
from ablate.search.problem import Problem
from ablate.search.space import ArmSpace
from ablate.study.tuning import Parameter


def describe_range(parameter: Parameter) -> str:
    """`0.005 to 0.5, log`, or the choices."""
    if parameter.choices:
        return ", ".join(format_value(choice) for choice in parameter.choices)
    scale = ", log" if parameter.log else f", step {parameter.step:g}" if parameter.step else ""
    return f"{parameter.low:g} to {parameter.high:g}{scale}"


def format_value(value: Any) -> str:
    """A number to four digits, or an empty string for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def format_share(share: float) -> str:
    """`33 %`."""
    return f"{100 * share:.0f} %"


def format_settings(params: Mapping[str, Any]) -> str:
    """`train.learning_rate 0.001, model.n_layers 2`."""
    return ", ".join(f"{path} {format_value(value)}" for path, value in params.items())


def describe_trials(problem: Problem) -> str:
    """`8 trials for each of 3 arms`, and what `finalists` are."""
    numbers = sorted({arm.count_trials(problem.tuning) for arm in problem.arms})
    fewest, most = numbers[0], numbers[-1]
    n_trials = str(most) if fewest == most else f"{fewest} to {most}"
    trials = f"{n_trials} trials for each of {count(len(problem.arms), 'arm')}"
    if problem.n_finalists is None:
        return trials
    stage, in_full = "with one seed", ""
    if problem.screen is not None:
        stage, in_full = f"{stage} for {format_share(problem.screen)} of their steps", " to the end"
    best = f"the best {problem.n_finalists} of each arm{in_full} with {count(len(problem.seeds), 'seed')}"
    return f"{trials} {stage}, {best}"


def describe_scope(problem: Problem) -> str:
    """The size and horizon for which the results of the trials hold."""
    setups = [arm.default.setup for arm in problem.arms]
    horizons = dict.fromkeys(setup.describe_horizon() for setup in setups)
    return f"{setups[0].describe_size()}, {join_with_and(list(horizons))}"


def describe_metrics(metrics: Mapping[str, Direction]) -> dict[str, Any]:
    """The key `metrics` of a summary, which those of language models do not have."""
    return {} if metrics == LANGUAGE_MODEL else {"metrics": dict(metrics)}


def metric_of(summary: Mapping[str, Any]) -> Metric:
    """The metric by which the confirmation of a search compares."""
    return list_metrics(summary["metrics"])[0] if "metrics" in summary else LOSS


def format_condition(space: ArmSpace) -> str:
    """The expression that selects the arms with the levels of the searched arm."""
    return " and ".join(f"{axis} == {level.name!r}" for axis, level in space.fixed.items())
