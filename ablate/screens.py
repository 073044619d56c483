"""The tables that the CLI prints."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ablate.bench_page import together_cells, together_columns
from ablate.errors import ResourceError
from ablate.formatting import count, format_count, format_number, format_seconds
from ablate.tracking.curve import read_backwards

if TYPE_CHECKING:
    from ablate.execution.events import Outcome
    from ablate.execution.placement import Placement
    from ablate.plan import Plan
    from ablate.plan.estimate import Pace
    from ablate.tracking.cleaning import Removal
    from ablate.tracking.folders import StudyFolder
    from ablate.training.bench import BenchReport

MAX_ROWS = 60

STATE_STYLES: Mapping[str, str] = {
    "running": "cyan",
    "finished": "green",
    "diverged": "yellow",
    "failed": "red",
    "stopped early": "yellow",
    "stale": "magenta",
    "interrupted": "magenta",
    "queued": "dim",
}


def print_plan(plan: Plan, store: StudyFolder, placement: Placement, pace: Pace) -> None:
    """The arms with their sizes, and what the runs that the `store` lacks will cost."""
    from ablate.execution.jobs import estimate_seconds, find_unfinished
    from ablate.execution.memory import check_memory
    from ablate.plan.estimate import run_bytes, study_seconds

    console = _console()
    study = plan.study
    seconds_of_arm = estimate_seconds(plan, store, pace)
    console.print(f"[bold]{escape(study.study)}[/]  {escape(study.question)}", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("arm", no_wrap=False, overflow="fold")
    for name in ("parameters", "FLOPs/token", "tokens", "time a run"):
        table.add_column(name, justify="right")
    baselines = {arm.baseline for arm in plan.arms}
    if len(baselines) > 1:  # else every row would name the same one
        table.add_column("compared with", overflow="fold")
    for arm in plan.arms[:MAX_ROWS]:
        base = next(other for other in plan.arms if other.name == arm.baseline) if arm.baseline != arm.name else arm
        table.add_row(
            Text(arm.name),
            f"{format_count(arm.n_params)}{_difference(arm.n_params, base.n_params)}",
            f"{format_count(arm.flops_per_token)}{_difference(arm.flops_per_token, base.flops_per_token)}",
            format_count(arm.n_tokens),
            format_seconds(seconds_of_arm[arm.name]),
            *([Text("(baseline)" if base is arm else arm.baseline, style="dim")] if len(baselines) > 1 else []),
        )
    console.print(table)
    if len(baselines) == 1:
        console.print(f"baseline: {escape(next(iter(baselines)))}", style="dim", highlight=False)
    if len(plan.arms) > MAX_ROWS:
        console.print(f"... and {len(plan.arms) - MAX_ROWS:,} more arms; --json prints all of them")
    concerned: dict[str, list[str]] = {}
    for arm in plan.arms:
        for notice in arm.notices:
            if notice not in plan.notices:
                concerned.setdefault(notice, []).append(arm.name)
    for notice, (first, *others) in concerned.items():
        more = f" and {count(len(others), 'more arm')}" if others else ""
        console.print(f"note: {escape(first)}{more}: {escape(notice)}", style="yellow", highlight=False)
    for notice in plan.notices:
        console.print(f"note: {escape(notice)}", style="yellow", highlight=False)
    memory = max(run_bytes(arm.model, arm.train) for arm in plan.arms)
    left = find_unfinished(plan, store)
    done = f"; {len(plan.runs) - len(left):,} of the runs are done" if len(left) < len(plan.runs) else ""
    seconds = study_seconds((seconds_of_arm[run.arm.name] for run in left), placement.lanes)
    gpu_hours = seconds * placement.gpus_of_run * placement.lanes / 3600
    for line in (
        f"{len(plan.runs):,} runs of {len(plan.arms):,} arms, seeds {', '.join(map(str, study.seeds))}, "
        f"{format_count(plan.total_flops)}FLOP in all{done}; {placement}",
        f"about {format_seconds(seconds)}{f' and {format_number(gpu_hours, 2)} GPU-hours' if gpu_hours else ''} "
        f"(an estimate, at {pace} here, and by finished runs), "
        f"up to {format_count(memory)}B of memory a run",
        f"data: {study.data.source}, {study.data.tokenizer}, {format_count(plan.corpus.n_train_tokens)} tokens to "
        f"train on and {format_count(plan.corpus.n_validation_tokens)} to validate, hash {plan.corpus.hash[:12]}",
    ):
        console.print(line, highlight=False)
    try:
        check_memory(study, left, placement)
    except ResourceError as error:
        console.print(f"note: `ablate run` would refuse here: {escape(str(error))}", style="red", highlight=False)


def _difference(value: int, base: int) -> str:
    change = value / base - 1
    return "" if abs(change) < 5e-4 else f" ({change:+.1%})"


def print_outcome(
    outcome: Outcome, store: StudyFolder, grid: str, command: str, console: Console, *, is_time_up: bool = False
) -> None:
    """How the study stands, and what to do next."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(outcome.states.items()))
    console.print(f"{store.path.name}: {counts}", highlight=False)
    failed = store.failed_runs(outcome.lost) if outcome.states.get("failed") else {}
    for run, error in failed.items():
        console.print(f"failed: {run.arm},seed={run.seed}: {error}", style="red", markup=False, highlight=False)
        console.print(f"  the traceback: ablate logs {run.run_id}{store.whereabouts}", markup=False, highlight=False)
    if outcome.halted:
        console.print(f"gave up: {outcome.halted}", style="red", markup=False, highlight=False, soft_wrap=True)
    if outcome.halted or outcome.interrupted or is_time_up:
        how = "once that is fixed," if outcome.halted else "stopped;" if outcome.interrupted else "time is up;"
        console.print(f"{how} go on with: {command}", markup=False, highlight=False, soft_wrap=True)
        return
    if failed:
        console.print("the same command tries them again; --retry-failed tries them alone", highlight=False)
    console.print(f"next: ablate report {grid}{store.whereabouts}", markup=False, highlight=False, soft_wrap=True)


def describe_runs(store: StudyFolder) -> list[dict[str, Any]]:
    """The state of every run, one mapping each."""
    rows = []
    for run in store.read_study().runs:
        folder = store.run(run.run_id)
        status = folder.read_status()
        rows.append(
            {
                "run_id": run.run_id,
                "arm": run.arm,
                "seed": run.seed,
                "state": "stopped early" if status.is_cut else folder.shown_state(status),
                "step": status.step,
                "n_steps": status.n_steps,
                "val_loss": folder.last_validation(),
                "took_s": status.took_s,
                "error": status.error,
                "notes": list(status.notes),
            }
        )
    return rows


def render_status(store: StudyFolder) -> Group:
    """The table of `ablate status`, and the counts."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "arm", "seed", "state", "step", "val loss", "took"):
        justify: Any = "left" if name in ("run", "arm", "state") else "right"
        table.add_column(name, justify=justify, overflow="fold")
    rows = describe_runs(store)
    for row in rows:
        table.add_row(
            row["run_id"],
            Text(row["arm"]),
            str(row["seed"]),
            Text(row["state"] + (" *" if row["notes"] else ""), style=STATE_STYLES[row["state"]]),
            f"{row['step']}/{row['n_steps']}" if row["n_steps"] else "",
            "" if row["val_loss"] is None else f"{row['val_loss']:.4f}",
            format_seconds(row["took_s"]) if row["took_s"] else "",
        )
    states = Counter(row["state"] for row in rows)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    lines: list[Any] = [table, Text(f"{store.path.name}: {counts}")]
    if any(row["notes"] for row in rows):
        lines.append(Text("*: something happened to it; `ablate logs RUN` tells", style="dim"))
    if states["stale"]:
        lines.append(Text("stale: no worker is at it any more; `ablate run` takes it up again", style="dim"))
    return Group(*lines)


def print_status(store: StudyFolder, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(describe_runs(store), indent=1))
    else:
        _console().print(render_status(store))


def watch_status(store: StudyFolder, every_s: float) -> None:
    """The same table again and again, until nothing is left to happen or Ctrl-C."""
    with Live(render_status(store), console=_console(), auto_refresh=False) as live, suppress(KeyboardInterrupt):
        while store.has_driver():
            time.sleep(every_s)
            live.update(render_status(store), refresh=True)


def print_log(store: StudyFolder, run_id: str, n_lines: int) -> None:
    """What happened to a run: its state, notes, error, and the last lines of its curve."""
    console = _console()
    folder = store.run(run_id)
    status = folder.read_status()
    run = next(run for run in store.read_study().runs if run.run_id == run_id)
    console.print(f"{run.arm},seed={run.seed}", markup=False, highlight=False, style="bold")
    facts = {
        "folder": folder.path,
        "state": "stopped early" if status.is_cut else folder.shown_state(status),
        "step": f"{status.step}/{status.n_steps}",
        "worker": status.worker,
        "took": format_seconds(status.took_s) if status.took_s else "",
        "memory": f"{format_count(status.memory_bytes)}B" if status.memory_bytes else "",
        "weights": folder.weights_flaw() if status.state == "finished" else "",
    }
    for name, value in facts.items():
        if value:
            console.print(f"{name:7} {value}", markup=False, highlight=False, soft_wrap=True)
    for note in status.notes:
        console.print(f"note    {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    for record in reversed([*islice(read_backwards(folder.curve), n_lines)]):
        values = {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in record.items()}
        line = " ".join(f"{key}={value}" for key, value in values.items())
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if status.error:
        console.print(status.error.rstrip(), style="red", markup=False, highlight=False, soft_wrap=True)


def print_removals(removals: Sequence[Removal], *, is_dry: bool) -> None:
    console = _console()
    for removal in removals:
        text = f"{format_count(removal.n_bytes):>6}B  {removal.path}  ({removal.reason})"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    total = format_count(sum(removal.n_bytes for removal in removals))
    console.print(f"{total}B in {len(removals)} files {'would go' if is_dry else 'removed'}", highlight=False)


def print_speeds(report: BenchReport) -> None:
    """What `ablate bench` measured: a line an arm, and where a step's time goes."""
    console = _console()
    ceilings = ", ".join(
        f"{format_number(value, 4)} TFLOP/s in {name}" for name, value in report.ceiling_tflops.items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    console.print(f"{report.device}, {versions}; a large matrix product: {ceilings}", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("arm", overflow="fold")
    names = ("parameters", "tokens/s", "ms a step", "TFLOP/s", "of ceiling", "memory", "first step cold", "warm")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("attention")
    for name in together_columns(report.together):
        table.add_column(name, justify="right")
    for speed in report.arms:
        cold = "" if speed.first_step_cold_s is None else f"{speed.first_step_cold_s:.1f} s"
        table.add_row(
            Text(speed.arm),
            format_count(speed.n_params),
            format_count(speed.tokens_per_s),
            f"{speed.step_ms:.2f}",
            format_number(speed.model_tflops, 4),
            f"{speed.ceiling_share:.0%}",
            f"{format_count(speed.peak_memory_bytes)}B",
            cold,
            f"{speed.first_step_warm_s:.1f} s",
            speed.backend,
            *together_cells(report.together, asdict(speed)),
        )
    console.print(table)
    for speed in report.arms:
        for title, parts in (("parts", speed.components_ms), ("kernels", speed.kernels_ms)):
            if parts:
                console.print(f"\n{escape(speed.arm)}: {title}, ms a step", highlight=False)
            for name, milliseconds in parts.items():
                console.print(f"  {milliseconds:9.3f}  {name[:100]}", markup=False, highlight=False)
    for name, error in report.failed.items():
        console.print(f"failed: {name}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)


def print_variants(table: Mapping[str, Mapping[str, Any]]) -> None:
    """Every component's variants: paper, neutral point, knobs with their defaults."""
    console = _console()
    for component, entries in table.items():
        console.print(f"\n[bold]{component}[/]")
        for name, entry in entries.items():
            console.print(f"  [cyan]{name}[/]  {escape(entry['summary'])}", highlight=False)
            console.print(f"    paper: {escape(entry['paper'])}", highlight=False, style="dim")
            if entry.get("neutral"):
                console.print(f"    neutral point: {escape(entry['neutral'])}", highlight=False, style="dim")
            for knob, about in entry["knobs"].items():
                console.print(
                    f"    {knob} = {escape(json.dumps(about['default']))}  {escape(about.get('description') or '')}",
                    highlight=False,
                )


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=200)
