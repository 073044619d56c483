"""The cost of a search, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ablate.execution.jobs import estimate_seconds
from ablate.execution.placement import local_resources, measure_pace, place
from ablate.formatting import count, format_seconds
from ablate.plan import Arm, Run
from ablate.plan.estimate import Pace, study_seconds
from ablate.search.descriptions import describe_range, describe_scope, describe_trials, format_value
from ablate.search.problem import Problem
from ablate.search.space import ArmSpace
from ablate.search.trials import Trials


def describe_cost(problem: Problem) -> list[dict[str, Any]]:
    """One mapping per arm: its trials, space, defaults and sizes."""
    return [
        {
            "arm": arm.label,
            "trials": arm.count_trials(problem.tuning),
            "seeds": list(problem.seeds),
            **problem.describe_finals(),
            "n_steps": arm.default.setup.n_steps,
            "n_params": arm.default.setup.n_params,
            "space": {path: parameter.model_dump(exclude_defaults=True) for path, parameter in arm.parameters.items()},
            "defaults": arm.defaults,
            "left_out": list(arm.missing),
        }
        for arm in problem.arms
    ]


def describe_left(trials: Trials, slots: int, pace: Pace | None) -> str:
    """The trials on disk, and the runs that are left with their estimated time, `slots` at a time."""
    total = sum(map(trials.n_wanted, trials.searches))
    done = total - trials.n_open
    left = [*_list_left(trials)]
    seconds = estimate_seconds(trials.plan, trials.store, pace)
    known = [each * share for arm, share in left if (each := seconds[arm.name]) is not None]
    time = f"about {format_seconds(study_seconds(known, slots))}" if len(known) == len(left) else "of unknown length"
    pieces = count(len(left), "more run") + (" or parts of runs" if trials.problem.screen is not None else "")
    runs = f"{pieces}, {time}" if done < total else "none is left"
    return f"{done} of {total} are done, {runs}" if done else runs


def _list_left(trials: Trials) -> Iterator[tuple[Arm, float]]:
    """The arm of each run that is left, and the share of its steps. The defaults stand for trials and finalists that
    are not known yet."""
    problem = trials.problem
    for search in trials.searches:
        for name in [*search.running, *(name for name, value in search.finals.items() if value is None)]:
            for run in trials.runs_of(trials.arms[name]):
                if not trials.has_ended(run):
                    yield run.arm, _share_left(trials, run)
        default, screen = trials.default_of(search), 1.0 if problem.screen is None else problem.screen
        yield from [(default, screen)] * (trials.count_unasked(search) * len(problem.first_seeds))
        n_finals = trials.count_finals(search)
        n_resumed = 0 if problem.screen is None else n_finals // len(problem.seeds)
        yield from [(default, 1.0 - screen)] * n_resumed + [(default, 1.0)] * (n_finals - n_resumed)


def _share_left(trials: Trials, run: Run) -> float:
    """The share of its steps that a run still trains before it ends or waits."""
    pause_step, folder = trials.pause_step(run), trials.store.run(run.run_id)
    if not run.arm.n_steps:  # a program may not say how many steps it has
        return 1.0
    done = folder.read_status().step if folder.checkpoint.exists() else 0
    return max(0, (pause_step or run.arm.n_steps) - done) / run.arm.n_steps


def describe_tuning(trials: Trials, slots: int, pace: Pace | None) -> Iterator[str]:
    """Describe a grid's `tune:` in lines."""
    problem = trials.problem
    following = "then the matrix trains each arm at its best" if trials.n_open else "each arm above is at its best"
    yield f"tune: {describe_trials(problem)}, {describe_left(trials, slots, pace)}; {following}"
    for path, parameter in problem.tuning.space.items():
        lacking = [arm.label for arm in problem.arms if path in arm.missing]
        without = f" (not for {', '.join(lacking)})" if lacking else ""
        yield f"tune: {path} {describe_range(parameter)}{without}"
    lengths = dict.fromkeys(f"{steps:,}" for arm in problem.arms if (steps := arm.default.setup.n_steps))
    if lengths:
        yield f"tune: a trial has {', '.join(lengths)} steps"


def print_search(trials: Trials, workers: int | None) -> None:
    """Print the space of every arm with its defaults, and the cost of the trials."""
    problem = trials.problem
    console = Console() if Console().is_terminal else Console(width=200)
    console.print(f"[bold]{escape(problem.name)}[/]  {escape(problem.study.question)}", highlight=False)
    for arm in problem.arms:
        console.print(_render(arm))
        if arm.missing:
            console.print(f"note: {escape(arm.label)} has no {', '.join(arm.missing)}", style="yellow", highlight=False)
    placement = place(problem.study.resources, [local_resources()], workers, problem.n_trials)
    pace = measure_pace(placement) if problem.study.program is None else None  # it says nothing about a program
    estimated = f" (an estimate, at {pace} here)" if pace else ""
    console.print(
        f"{describe_trials(problem)}, {problem.n_trials * len(problem.seeds)} runs in all, by "
        f"{problem.tuning.sampler.name}; the defaults are trial 0; {placement}\n"
        f"a trial: {describe_scope(problem)}\n"
        f"{describe_left(trials, placement.slots, pace)}{estimated}",
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
