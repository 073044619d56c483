"""The cost of a search, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ablate.execution.placement import local_resources, measure_pace, place
from ablate.formatting import format_seconds
from ablate.plan.estimate import Pace, run_seconds, study_seconds
from ablate.search.descriptions import describe_range, describe_scope, describe_trials, format_value
from ablate.search.problem import Problem
from ablate.search.space import ArmSpace


def describe_cost(problem: Problem) -> list[dict[str, Any]]:
    """One mapping per arm: its trials, space, defaults and sizes."""
    return [
        {
            "arm": arm.label,
            "trials": arm.count_trials(problem.tuning),
            "seeds": list(problem.seeds),
            "n_steps": arm.default.train.steps,
            "n_params": arm.default.model.num_params(),
            "space": {path: parameter.model_dump(exclude_defaults=True) for path, parameter in arm.parameters.items()},
            "defaults": arm.defaults,
            "left_out": list(arm.missing),
        }
        for arm in problem.arms
    ]


def trials_seconds(problem: Problem, pace: Pace, slots: int) -> float:
    """Estimated seconds of all trials with `slots` runs at a time, without the confirmation."""
    seconds = [
        run_seconds(arm.default.model, arm.default.train, pace)
        for arm in problem.arms
        for _ in range(arm.count_trials(problem.tuning) * len(problem.seeds))
    ]
    return study_seconds(seconds, slots)


def describe_tuning(problem: Problem, slots: int, pace: Pace) -> Iterator[str]:
    """Describe a grid's `tune:` in lines."""
    n_runs = problem.n_trials * len(problem.seeds)
    seconds = trials_seconds(problem, pace, slots)
    yield (
        f"tune: {describe_trials(problem)}, {n_runs} more runs, "
        f"about {format_seconds(seconds)}; then the matrix trains each arm at its best"
    )
    for path, parameter in problem.tuning.space.items():
        lacking = [arm.label for arm in problem.arms if path in arm.missing]
        without = f" (not for {', '.join(lacking)})" if lacking else ""
        yield f"tune: {path} {describe_range(parameter)}{without}"
    yield f"tune: a trial has {', '.join(dict.fromkeys(f'{arm.default.train.steps:,}' for arm in problem.arms))} steps"


def print_search(problem: Problem, workers: int | None) -> None:
    """Print the space of every arm with its defaults, and the cost of the trials."""
    console = Console() if Console().is_terminal else Console(width=200)
    console.print(f"[bold]{escape(problem.name)}[/]  {escape(problem.study.question)}", highlight=False)
    for arm in problem.arms:
        console.print(_render(arm))
        if arm.missing:
            console.print(f"note: {escape(arm.label)} has no {', '.join(arm.missing)}", style="yellow", highlight=False)
    placement = place(problem.study.resources, [local_resources()], workers, problem.n_trials)
    pace = measure_pace(placement)
    seconds = trials_seconds(problem, pace, placement.slots)
    n_runs = problem.n_trials * len(problem.seeds)
    console.print(
        f"{describe_trials(problem)}, {n_runs} runs in all, by "
        f"{problem.tuning.sampler.name}; the defaults are trial 0; {placement}\n"
        f"a trial: {describe_scope(problem)}\n"
        f"about {format_seconds(seconds)} for the trials (an estimate, at {pace} here)",
        highlight=False,
    )


def _render(arm: ArmSpace) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", title=arm.label, title_justify="left")
    for name in ("setting", "values", "default", "only where"):
        table.add_column(name, overflow="fold")
    for path, parameter in arm.parameters.items():
        default = arm.defaults.get(path)
        note = "" if default is None or parameter.holds(default) else " (outside)"
        cells = (path, describe_range(parameter), f"{format_value(default)}{note}", parameter.when)
        table.add_row(*map(Text, cells))
    return table
