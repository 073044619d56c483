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
from ablate.plan.estimate import Pace, study_seconds
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
            "n_steps": arm.default.setup.n_steps,
            "n_params": arm.default.setup.n_params,
            "space": {path: parameter.model_dump(exclude_defaults=True) for path, parameter in arm.parameters.items()},
            "defaults": arm.defaults,
            "left_out": list(arm.missing),
        }
        for arm in problem.arms
    ]


def describe_time(problem: Problem, pace: Pace, slots: int) -> str:
    """The estimated time of all trials with `slots` runs at a time, without the confirmation; empty if unknown."""
    seconds: list[float] = []
    for arm in problem.arms:
        each = arm.default.setup.seconds(pace)
        if each is None:
            return ""
        seconds += [each] * (arm.count_trials(problem.tuning) * len(problem.seeds))
    return f"about {format_seconds(study_seconds(seconds, slots))}"


def describe_tuning(problem: Problem, slots: int, pace: Pace) -> Iterator[str]:
    """Describe a grid's `tune:` in lines."""
    n_runs = problem.n_trials * len(problem.seeds)
    yield (
        f"tune: {describe_trials(problem)}, {n_runs} more runs, "
        f"{describe_time(problem, pace, slots) or 'of unknown length'}; then the matrix trains each arm at its best"
    )
    for path, parameter in problem.tuning.space.items():
        lacking = [arm.label for arm in problem.arms if path in arm.missing]
        without = f" (not for {', '.join(lacking)})" if lacking else ""
        yield f"tune: {path} {describe_range(parameter)}{without}"
    lengths = dict.fromkeys(f"{steps:,}" for arm in problem.arms if (steps := arm.default.setup.n_steps))
    if lengths:
        yield f"tune: a trial has {', '.join(lengths)} steps"


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
    n_runs, time = problem.n_trials * len(problem.seeds), describe_time(problem, pace, placement.slots)
    console.print(
        f"{describe_trials(problem)}, {n_runs} runs in all, by "
        f"{problem.tuning.sampler.name}; the defaults are trial 0; {placement}\n"
        f"a trial: {describe_scope(problem)}\n"
        f"{f'{time} for the trials (an estimate, at {pace} here)' if time else 'the time is unknown'}",
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
