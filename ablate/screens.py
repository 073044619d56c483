"""The tables that the CLI prints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ablate.words import format_count, format_seconds

if TYPE_CHECKING:
    from ablate.execution.events import Outcome
    from ablate.execution.placement import Placement
    from ablate.plan import Plan
    from ablate.tracking.store import Store

MAX_ROWS = 60

STATE_STYLES: Mapping[str, str] = {
    "running": "cyan",
    "finished": "green",
    "diverged": "yellow",
    "failed": "red",
    "stopped early": "yellow",
    "stale": "magenta",
    "queued": "dim",
}


def print_plan(plan: Plan, placement: Placement, flops_per_s: float) -> None:
    """The arms with their sizes, and what the whole will cost."""
    from ablate.plan.estimate import run_bytes, run_seconds

    console = _console()
    study = plan.study
    console.print(f"[bold]{escape(study.study)}[/]  {escape(study.question)}", highlight=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("arm", no_wrap=False, overflow="fold")
    table.add_column("seeds")
    for name in ("parameters", "FLOPs/token", "tokens", "time a run"):
        table.add_column(name, justify="right")
    table.add_column("compared with", overflow="fold")
    for arm in plan.arms[:MAX_ROWS]:
        base = next(other for other in plan.arms if other.name == arm.baseline) if arm.baseline != arm.name else arm
        table.add_row(
            Text(arm.name),
            ",".join(map(str, study.seeds)),
            f"{format_count(arm.n_params)}{_difference(arm.n_params, base.n_params)}",
            f"{format_count(arm.flops_per_token)}{_difference(arm.flops_per_token, base.flops_per_token)}",
            format_count(arm.n_tokens),
            format_seconds(run_seconds(arm.model, arm.train, flops_per_s)),
            Text("(baseline)" if base is arm else arm.baseline, style="dim"),
        )
    console.print(table)
    if len(plan.arms) > MAX_ROWS:
        console.print(f"... and {len(plan.arms) - MAX_ROWS:,} more arms; --json prints all of them")
    shown: set[str] = set()
    for arm in plan.arms[:MAX_ROWS]:
        for notice in arm.notices:
            if notice not in plan.notices and notice not in shown:
                shown.add(notice)
                console.print(f"note: {escape(arm.name)}: {escape(notice)}", style="yellow", highlight=False)
    for notice in plan.notices:
        console.print(f"note: {escape(notice)}", style="yellow", highlight=False)
    memory = max(run_bytes(arm.model, arm.train) for arm in plan.arms)
    seconds = plan.seconds(flops_per_s, placement.lanes)
    gpu_hours = seconds * placement.gpus * placement.lanes / 3600
    for line in (
        f"{len(plan.runs):,} runs of {len(plan.arms):,} arms, {format_count(plan.total_flops)}FLOP in all; {placement}",
        f"about {format_seconds(seconds)}{f' and {gpu_hours:.2g} GPU-hours' if gpu_hours else ''} "
        f"(an estimate, at {format_count(flops_per_s)}FLOP/s for a large matrix product here), "
        f"up to {format_count(memory)}B of memory a run",
        f"data: {study.data.source}, {study.data.tokenizer}, {format_count(plan.corpus.n_train_tokens)} tokens to "
        f"train on and {format_count(plan.corpus.n_validation_tokens)} to validate, hash {plan.corpus.hash[:12]}",
    ):
        console.print(line, highlight=False)


def _difference(value: int, base: int) -> str:
    change = value / base - 1
    return "" if abs(change) < 5e-4 else f" ({change:+.1%})"


def print_outcome(outcome: Outcome, store: Store, grid: str, command: str, console: Console) -> None:
    """How the study stands, and what to do next."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(outcome.states.items()))
    where = f" --runs {store.path.parent}" if str(store.path.parent) != "runs" else ""
    console.print(f"{store.path.name}: {counts}", highlight=False)
    if outcome.halted:
        console.print(f"gave up: {outcome.halted}", style="red", markup=False, highlight=False, soft_wrap=True)
    if outcome.interrupted:
        console.print(f"stopped; go on with: {command}", markup=False, highlight=False, soft_wrap=True)
        return
    failed = [run for run in store.read_study().runs if store.run(run.run_id).read_status().state == "failed"]
    for run in failed:
        error = store.run(run.run_id).read_status().error.strip().rsplit("\n", 1)[-1]
        console.print(f"failed: {run.arm},seed={run.seed}: {error}", style="red", markup=False, highlight=False)
        console.print(f"  the traceback: ablate logs {run.run_id}{where}", markup=False, highlight=False)
    if failed:
        console.print("the same command tries them again; --retry-failed tries them alone", highlight=False)
    console.print(f"next: ablate report {grid}{where}", markup=False, highlight=False, soft_wrap=True)


def print_status(store: Store, *, as_json: bool) -> None:
    """The state of every run, and the counts."""
    record = store.read_study()
    states: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "arm", "seed", "state", "step", "val loss"):
        table.add_column(name, justify="right" if name in ("seed", "step", "val loss") else "left", overflow="fold")
    for run in record.runs:
        folder = store.run(run.run_id)
        status = folder.read_status()
        state = "stopped early" if status.is_cut else folder.shown_state(status)
        loss = folder.last_validation()
        states[state] += 1
        row = {"run_id": run.run_id, "arm": run.arm, "seed": run.seed, "state": state, "step": status.step}
        rows.append({**row, "n_steps": status.n_steps, "val_loss": loss, "error": status.error})
        table.add_row(
            run.run_id,
            Text(run.arm),
            str(run.seed),
            Text(state, style=STATE_STYLES[state]),
            f"{status.step}/{status.n_steps}" if status.n_steps else "",
            "" if loss is None else f"{loss:.4f}",
        )
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    console = _console()
    console.print(table)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    console.print(f"{record.study}: {counts}", highlight=False)
    if states["stale"]:
        console.print(
            "stale: its worker has given no sign of life for a while; `ablate run` takes it up again", style="dim"
        )


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
