"""What `plan` prints, and the last lines of `run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ablate.cli.tables import make_table, open_console, print_plain
from ablate.errors import ResourceError
from ablate.execution.events import Outcome
from ablate.execution.jobs import estimate_seconds, find_unfinished
from ablate.execution.placement import Placement, check_memory
from ablate.formatting import count, format_count, format_number, format_seconds
from ablate.plan import Plan
from ablate.plan.estimate import Pace, run_bytes, study_seconds
from ablate.tracking.folders import StudyFolder

MAX_ROWS = 60


def describe_plan(plan: Plan) -> Iterator[dict[str, Any]]:
    """The runs of a plan for `plan --json`, one mapping per run."""
    for run in plan.runs:
        yield {
            "run_id": run.run_id,
            "arm": run.arm.name,
            "seed": run.seed,
            "n_params": run.arm.n_params,
            "flops_per_token": run.arm.flops_per_token,
            "n_tokens": run.arm.n_tokens,
            "n_steps": run.arm.train.steps,
            "axes": run.arm.axes,
            "baseline": run.arm.baseline,
        }


def print_plan(plan: Plan, store: StudyFolder, placement: Placement, pace: Pace) -> None:
    """Print the arms with their sizes, and the cost of the runs that the `store` does not have yet."""
    console = open_console()
    seconds_of_arm = estimate_seconds(plan, store, pace)
    console.print(f"[bold]{escape(plan.study.name)}[/]  {escape(plan.study.question)}", highlight=False)
    console.print(_render_arms(plan, seconds_of_arm))
    baselines = {arm.baseline for arm in plan.arms}
    if len(baselines) == 1:
        console.print(f"baseline: {escape(next(iter(baselines)))}", style="dim", highlight=False)
    if len(plan.arms) > MAX_ROWS:
        console.print(f"... and {len(plan.arms) - MAX_ROWS:,} more arms; --json prints all of them")
    for notice in _collect_notices(plan):
        console.print(f"note: {escape(notice)}", style="yellow", highlight=False)
    memory = max(run_bytes(arm.model, arm.train) for arm in plan.arms)
    left = find_unfinished(plan, store)
    done = f"; {len(plan.runs) - len(left):,} of the runs are done" if len(left) < len(plan.runs) else ""
    seconds = study_seconds((seconds_of_arm[run.arm.name] for run in left), placement.slots)
    gpu_hours = seconds * placement.gpus_of_run * placement.slots / 3600
    for line in (
        f"{len(plan.runs):,} runs of {len(plan.arms):,} arms, seeds {', '.join(map(str, plan.study.seeds))}, "
        f"{format_count(plan.total_flops)}FLOP in total{done}; {placement}",
        f"about {format_seconds(seconds)}{f' and {format_number(gpu_hours, 2)} GPU-hours' if gpu_hours else ''} "
        f"(estimated from {pace} on this machine, and from finished runs), "
        f"up to {format_count(memory)}B of memory per run",
        f"data: {plan.study.data.source}, {plan.study.data.tokenizer}, "
        f"{format_count(plan.corpus.n_train_tokens)} tokens for training and "
        f"{format_count(plan.corpus.n_validation_tokens)} for validation, hash {plan.corpus.hash[:12]}",
    ):
        console.print(line, highlight=False)
    try:
        check_memory(plan.study, left, placement)
    except ResourceError as error:
        console.print(f"note: `ablate run` would refuse here: {escape(str(error))}", style="red", highlight=False)


def _render_arms(plan: Plan, seconds_of_arm: Mapping[str, float]) -> Table:
    table = make_table(["arm"], ["parameters", "FLOPs/token", "tokens", "time per run"])
    has_baselines = len({arm.baseline for arm in plan.arms}) > 1  # one baseline stands below the table instead
    if has_baselines:
        table.add_column("compared with", overflow="fold")
    arms = {arm.name: arm for arm in plan.arms}
    for arm in plan.arms[:MAX_ROWS]:
        base = arms[arm.baseline]
        table.add_row(
            Text(arm.name),
            f"{format_count(arm.n_params)}{_difference(arm.n_params, base.n_params)}",
            f"{format_count(arm.flops_per_token)}{_difference(arm.flops_per_token, base.flops_per_token)}",
            format_count(arm.n_tokens),
            format_seconds(seconds_of_arm[arm.name]),
            *([Text("(baseline)" if base is arm else arm.baseline, style="dim")] if has_baselines else []),
        )
    return table


def _difference(value: int, base: int) -> str:
    change = value / base - 1
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
    outcome: Outcome, store: StudyFolder, grid: str, command: str, console: Console, *, is_time_up: bool = False
) -> None:
    """Print how the study stands, and what to do next."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(outcome.states.items()))
    print_plain(console, f"{store.path.name}: {counts}")
    failed = store.failed_runs(outcome.lost) if outcome.states.get("failed") else {}
    for run, error in failed.items():
        print_plain(console, f"failed: {run.arm},seed={run.seed}: {error}", "red")
        print_plain(console, f"  the traceback: ablate logs {run.run_id}{store.whereabouts}")
    if outcome.halted:
        print_plain(console, f"gave up: {outcome.halted}", "red")
    if outcome.halted or outcome.interrupted or is_time_up:
        why = "once that is fixed," if outcome.halted else "stopped;" if outcome.interrupted else "time is up;"
        print_plain(console, f"{why} resume with: {command}")
        return
    if failed:
        print_plain(console, "the same command tries them again; --retry-failed tries only them")
    print_plain(console, f"next: ablate report {grid}{store.whereabouts}")
