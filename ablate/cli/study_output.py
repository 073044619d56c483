"""What `plan` prints, and the last lines of `run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ablate.cli.outputs.study import FailedRun, RunOutcome
from ablate.cli.planned_machine import PlannedMachine
from ablate.cli.tables import make_table, open_console, print_plain
from ablate.errors import ResourceError
from ablate.execution.jobs import explain_unused, extrapolate_seconds, find_unfinished, measure_seconds
from ablate.execution.placement import check_memory
from ablate.execution.progress import Evaluated, Outcome
from ablate.formatting import count, format_count, format_number, format_seconds
from ablate.plan import Plan
from ablate.plan.estimate import PROCESS_BYTES, study_seconds
from ablate.plan.inputs import describe_inputs
from ablate.tracking.folders import MAX_NAMED, StudyFolder

MAX_ROWS = 60


def describe_plan(plan: Plan) -> Iterator[dict[str, Any]]:
    """The runs of a plan for `plan --json`, one mapping per run. `is_certain` is false for those that looks may add."""
    certain = {run.run_id for run in plan.runs}
    for run in plan.possible_runs:
        yield {
            "run_id": run.run_id,
            "arm": run.arm.name,
            "seed": run.seed,
            "n_params": run.arm.n_params,
            "flops_per_token": run.arm.flops_per_token,
            "n_tokens": run.arm.n_tokens,
            "n_steps": run.arm.n_steps,
            "axes": run.arm.axes,
            "baseline": run.arm.baseline,
            **({} if run.parent is None else {"start_from": {"id": run.parent.identity, "name": run.parent.name}}),
            **({"is_certain": run.run_id in certain} if plan.until_decided is not None else {}),
        }


def print_plan(
    plan: Plan,
    store: StudyFolder,
    machine: PlannedMachine,
    power: Sequence[str] = (),
    margin: float | None = None,
) -> None:
    """Print the arms with their sizes, the cost of the runs that the `store` does not have yet, and their power.

    `margin` is the smallest effect in standard deviations of a paired difference, if it is known.
    """
    console = open_console()
    placement = machine.placement
    measured = measure_seconds(plan, store)
    seconds_of_arm = extrapolate_seconds(plan, measured, machine.pace)
    console.print(f"[bold]{escape(plan.study.name)}[/]  {escape(plan.study.question)}", highlight=False)
    console.print(_render_arms(plan, seconds_of_arm))
    baselines = {arm.baseline for arm in plan.arms}
    if len(baselines) == 1:
        console.print(f"baseline: {escape(next(iter(baselines)))}", style="dim", highlight=False)
    if len(plan.arms) > MAX_ROWS:
        console.print(f"... and {len(plan.arms) - MAX_ROWS:,} more arms; --json prints all of them")
    unused = [text] if (text := explain_unused(plan, store)) else []
    for notice in (*machine.notices, *_collect_notices(plan), *unused):
        console.print(f"note: {escape(notice)}", style="yellow", highlight=False)
    left = find_unfinished(plan, store)
    done = f"; {len(plan.runs) - len(left):,} of the runs are done" if len(left) < len(plan.runs) else ""
    first = list(dict.fromkeys(run.seed for run in plan.runs))
    seeds = f"{'seed' if len(first) == 1 else 'seeds'} {', '.join(map(str, first))}"
    before = " before the first look" if plan.until_decided is not None else ""
    flops = f", {format_count(plan.total_flops)}FLOP in total" if plan.total_flops is not None else ""
    for line in (
        f"{len(plan.runs):,} runs of {len(plan.arms):,} arms{before}, {seeds}{flops}{done}; {placement}",
        *_describe_cost(plan, [seconds_of_arm[run.arm.name] for run in left], machine, has_measured=bool(measured)),
        *_describe_looks(plan, seconds_of_arm, placement.slots, margin),
        *power,
        *describe_inputs(plan),
    ):
        console.print(line, markup=False, highlight=False)
    try:
        check_memory(plan.study, left, placement, machine.memory_bytes, machine.name)
    except ResourceError as error:
        console.print(f"note: `ablate run` would refuse here: {escape(str(error))}", style="red", highlight=False)


def _describe_cost(
    plan: Plan, run_seconds: Sequence[float | None], machine: PlannedMachine, *, has_measured: bool
) -> Iterator[str]:
    """The time and memory of the runs that are left, as far as they are known."""
    known = [seconds for seconds in run_seconds if seconds is not None]
    if len(known) < len(run_seconds):
        yield "the time is not known until a run has finished"
        return
    placement = machine.placement
    seconds = study_seconds(known, placement.slots)
    gpu_hours = seconds * placement.gpus_of_run * placement.slots / 3600
    sizes = [n_bytes for arm in plan.arms if (n_bytes := arm.setup.memory_bytes) is not None]
    sources = [f"from {machine.pace} on {machine.name}"] if sizes and machine.pace is not None else []
    if has_measured or not sources:
        sources.append("from finished runs")
    memory = f", up to {format_count(max(sizes))}B of memory per run" if sizes else ""
    if memory and not placement.gpus:
        memory += f", besides about {format_count(PROCESS_BYTES * placement.processes)}B for Python and PyTorch"
    yield (
        f"about {format_seconds(seconds)}{f' and {format_number(gpu_hours, 2)} GPU-hours' if gpu_hours else ''} "
        f"(estimated {', and '.join(sources)}){memory}"
    )


def _describe_looks(
    plan: Plan, seconds_of_arm: Mapping[str, float | None], slots: int, margin: float | None
) -> Iterator[str]:
    """The expected and the largest cost of `until: decided`."""
    rule = plan.until_decided
    if rule is None:
        return
    from ablate.sequential.cost import EFFECTS, expect_runs

    expected = expect_runs(plan, margin)

    def price(runs: Mapping[str, float]) -> str:
        total = f"{round(sum(runs.values())):,} runs"
        seconds = [n * each for name, n in runs.items() if (each := seconds_of_arm[name]) is not None]
        if len(seconds) < len(runs):
            return total
        return f"{total}, about {format_seconds(sum(seconds) / slots)}"

    sizes = f"{', '.join(f'{size:g}' for size in EFFECTS[:-1])} and {EFFECTS[-1]:g} standard deviations"
    yield f"a look after each of {rule.at_least} to {rule.at_most} seeds, until every arm is decided"
    yield f"at most {price(dict.fromkeys(expected, float(rule.at_most)))}"
    yield (
        f"expected {price(expected)}: the mean of simulated studies with differences of {sizes} in equal parts"
        f"{', where no arm is called equivalent' if margin is None else ''}"
    )


def _render_arms(plan: Plan, seconds_of_arm: Mapping[str, float | None]) -> Table:
    """A table of the arms. A fact that is unknown for all of them has no column."""
    sizes = {
        name: values
        for name, values in {
            "parameters": [arm.n_params for arm in plan.arms],
            "FLOPs/token": [arm.flops_per_token for arm in plan.arms],
            "tokens": [arm.n_tokens for arm in plan.arms],
        }.items()
        if any(value is not None for value in values)
    }
    has_steps = not sizes and any(arm.n_steps for arm in plan.arms)
    has_time = any(seconds is not None for seconds in seconds_of_arm.values())
    table = make_table(["arm"], [*sizes, *["steps"] * has_steps, *["time per run"] * has_time])
    has_baselines = len({arm.baseline for arm in plan.arms}) > 1  # one baseline stands below the table instead
    if has_baselines:
        table.add_column("compared with", overflow="fold")
    has_starts = any(arm.start is not None for arm in plan.arms)
    if has_starts:
        table.add_column("starts from", overflow="fold")
    places = {arm.name: place for place, arm in enumerate(plan.arms)}
    for place, arm in enumerate(plan.arms[:MAX_ROWS]):
        base = places[arm.baseline]
        seconds = seconds_of_arm[arm.name]
        table.add_row(
            Text(arm.name),
            *(
                f"{_format_size(values[place])}{_difference(values[place], values[base]) if name != 'tokens' else ''}"
                for name, values in sizes.items()
            ),
            *([_format_size(arm.n_steps)] if has_steps else []),
            *(["" if seconds is None else format_seconds(seconds)] if has_time else []),
            *([Text("(baseline)" if base == place else arm.baseline, style="dim")] if has_baselines else []),
            *([Text(arm.start.name if arm.start is not None else "")] if has_starts else []),
        )
    return table


def _format_size(value: int | None) -> str:
    return "" if value is None else format_count(value)


def _difference(value: int | None, base: int | None) -> str:
    change = value / base - 1 if value and base else 0.0
    return "" if abs(change) < 5e-4 else f" ({change:+.1%})"


def _collect_notices(plan: Plan) -> Iterator[str]:
    """The notices of arms, each once with the first arm that it is about, then those of the whole plan."""
    arms_of: dict[str, list[str]] = {}
    for arm in plan.arms:
        for notice in arm.notices:
            if notice not in plan.notices:
                arms_of.setdefault(notice, []).append(arm.name)
    for notice, (first, *others) in arms_of.items():
        more = f" and {count(len(others), 'more arm')}" if others else ""
        yield f"{first}{more}: {notice}"
    yield from plan.notices


def print_outcome(
    outcome: Outcome, store: StudyFolder, next_step: str, command: str, console: Console, *, is_time_up: bool = False
) -> None:
    """Print how the study stands, and what to do next: after `ablate run`, `next_step` is a command."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(outcome.states.items()))
    print_plain(console, f"{store.path.name}: {counts}")
    failed = store.failed_runs(outcome.lost) if outcome.states.get("failed") else {}
    for run, error in failed.items():
        print_plain(console, f"failed: {run.arm},seed={run.seed}: {error}", "red")
        print_plain(console, f"  details: ablate logs {run.run_id}{store.whereabouts}")
    print_evaluated(outcome.evaluated, console)
    if outcome.halted:
        print_plain(console, f"gave up: {outcome.halted}", "red")
    if outcome.halted or outcome.interrupted or is_time_up:
        why = "once that is fixed," if outcome.halted else "stopped;" if outcome.interrupted else "time is up;"
        print_plain(console, f"{why} resume with: {command}")
        return
    if failed:
        only_failed = "; --retry-failed tries only them" if next_step else ""
        print_plain(console, f"the same command tries them again{only_failed}")
    if next_step:
        print_plain(console, f"next: {next_step}")


def describe_outcome(outcome: Outcome, store: StudyFolder, command: str, *, is_time_up: bool = False) -> RunOutcome:
    """How the study stands, for `run --json`."""
    failed = store.failed_runs(outcome.lost) if outcome.states.get("failed") else {}
    return RunOutcome(
        study=store.path.name,
        folder=str(store.path),
        states=dict(outcome.states),
        failed=tuple(
            FailedRun(run_id=run.run_id, arm=run.arm, seed=run.seed, error=error) for run, error in failed.items()
        ),
        failed_evaluations=dict(outcome.evaluated.failed),
        halted=outcome.halted,
        interrupted=outcome.interrupted,
        time_is_up=is_time_up,
        command=command,
    )


def print_evaluated(evaluated: Evaluated, console: Console) -> None:
    """Print how many evaluations were done, and each that failed or was not possible."""
    if evaluated.n_done:
        n_failed = f", {len(evaluated.failed)} of them failed" if evaluated.failed else ""
        print_plain(console, f"{count(evaluated.n_done, 'evaluation')}{n_failed}")
    for run, reason in evaluated.refused.items():
        print_plain(console, f"not evaluated: {run.arm},seed={run.seed} ({run.run_id}): {reason}", "yellow")
    for what, error in [*evaluated.failed.items()][:MAX_NAMED]:
        print_plain(console, f"failed: {what}: {error}", "red")
    if (n_more := len(evaluated.failed) - MAX_NAMED) > 0:
        print_plain(console, f"failed: {n_more} more", "red")
    if evaluated.failed:
        print_plain(console, "the same command tries them again")
    if evaluated.halted:
        print_plain(console, f"gave up: {evaluated.halted}", "red")
