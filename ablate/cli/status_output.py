"""What `status` and `logs` print."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ablate.cli.outputs.base import print_output
from ablate.cli.outputs.results import ListedStudy, RunLog
from ablate.cli.tables import make_table, open_console, print_plain
from ablate.errors import RecordError
from ablate.formatting import format_count, format_seconds
from ablate.tracking.curve import read_backwards
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import RunRecord, StudyRecord

MANY = 2_000  # runs: a longer table is unreadable
OPEN = "undecided"  # the verdict at a look of an arm that goes on

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


def describe_runs(store: StudyFolder) -> list[dict[str, Any]]:
    """The state of every run, one mapping per run."""
    record = store.read_study()
    return _describe_some(store, record, record.runs)


def _describe_some(store: StudyFolder, record: StudyRecord, runs: Iterable[RunRecord]) -> list[dict[str, Any]]:
    rows, verdicts = [], list_verdicts(record)
    for run in runs:
        folder = store.run(run.run_id)
        status = folder.read_status()
        rows.append(
            {
                "run_id": run.run_id,
                "arm": run.arm,
                "seed": run.seed,
                "state": folder.shown_state(status),
                "step": status.step,
                "n_steps": status.known_steps,
                record.metric.name: folder.last_validation(record.metric.name),
                "took_s": status.took_s,
                "error": status.error,
                "notes": list(status.notes),
                **verdicts.get(run.arm, {}),
            }
        )
    return rows


def list_verdicts(record: StudyRecord) -> dict[str, dict[str, Any]]:
    """The verdict on each arm at its last look, with the number of seeds; empty without looks."""
    return {
        row["arm"]: {"verdict": row["verdict"], "n_seeds": look["seeds"]}
        for look in sorted(record.looks, key=lambda look: look["seeds"])
        for row in look["arms"]
    }


def _describe_looks(record: StudyRecord, labels: Mapping[str, str]) -> Iterator[str]:
    """Lines about the arms of a study with `until: decided`."""
    if record.seed_rule is None:
        return
    found = list_verdicts(record)
    decided = [
        f"{labels[arm]} {v['verdict']} after {v['n_seeds']} seeds" for arm, v in found.items() if v["verdict"] != OPEN
    ]
    compared = [arm.arm for arm in record.arms if arm.arm != arm.baseline]
    rest = [arm for arm in compared if found.get(arm, {}).get("verdict", OPEN) == OPEN]
    yield f"decided: {'; '.join(decided) or 'none'}"
    if rest:
        most = record.seed_rule.at_most
        is_over = all(found.get(arm, {}).get("n_seeds") == most for arm in rest)
        yield f"{f'undecided after all {most} seeds' if is_over else 'open'}: {'; '.join(labels[arm] for arm in rest)}"


def render_status(store: StudyFolder) -> Group:
    """The table of `ablate status`, the number of runs in each state, the arms averaged over seeds, and footnotes."""
    from ablate.tracking.arm_labels import label_arms

    table = make_table(("run", "arm"))
    table.add_column("seed", justify="right", overflow="fold")
    table.add_column("state", overflow="fold")
    record = store.read_study()
    metric, labels = record.metric, label_arms(record.arms)
    for name in ("step", "val loss" if metric.is_loss else metric.short, "took"):
        table.add_column(name, justify="right", overflow="fold")
    usual = _find_usual(store, record.runs) if len(record.runs) > MANY else {}
    others = [run for run in record.runs if run.run_id not in usual]
    rows = _describe_some(store, record, others)
    for row in rows[:MANY]:
        table.add_row(
            row["run_id"],
            Text(labels[row["arm"]]),
            str(row["seed"]),
            Text(row["state"] + (" *" if row["notes"] else ""), style=STATE_STYLES[row["state"]]),
            f"{row['step']}/{row['n_steps']}" if row["n_steps"] else str(row["step"] or ""),
            "" if row[metric.name] is None else f"{row[metric.name]:.4f}",
            format_seconds(row["took_s"]) if row["took_s"] else "",
        )
    states = Counter(row["state"] for row in rows) + Counter(usual.values())
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    lines: list[Any] = [table, Text(f"{store.path.name}: {counts}"), *map(Text, _describe_looks(record, labels))]
    if usual:
        hidden = f"{len(record.runs) - min(len(rows), MANY):,} of {len(record.runs):,} runs are not listed"
        lines.append(
            Text(f"{hidden}: `ablate status --json` lists all, `ablate report` averages the arms", style="dim")
        )
    elif (averages := _average_arms(store, labels)) is not None:
        lines += [Text(""), averages]
    if any(row["notes"] for row in rows):
        lines.append(Text("*: has notes; `ablate logs RUN` shows them", style="dim"))
    if states["stale"]:
        lines.append(Text("stale: its worker is gone; `ablate run` resumes it", style="dim"))
    return Group(*lines)


def _find_usual(store: StudyFolder, runs: Sequence[RunRecord]) -> dict[str, str]:
    """The states of the runs that have ended or have not started, by run id: of thousands, the others matter."""
    states = {run.run_id: store.peek_state(run.run_id) for run in runs}
    started = store.list_names()
    return {run_id: state or "queued" for run_id, state in states.items() if state or run_id not in started}


def _average_arms(store: StudyFolder, labels: Mapping[str, str]) -> Table | None:
    """A line per arm with the mean over its seeds so far, and its interval. None if no arm has two seeds."""
    from ablate.analysis.progress import average_seeds
    from ablate.analysis.results import read_results

    try:
        results = read_results(store)
    except RecordError:  # the table shows what can be read
        return None
    rows = list(average_seeds(results))
    if not any(row.low is not None for row in rows):
        return None
    table = make_table(("arm",))
    for name in ("seeds", "at step", f"mean {results.metric.short}", "95 % interval"):
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        interval = "" if row.low is None else f"[{row.low:.4f}, {row.high:.4f}]"
        table.add_row(Text(labels[row.arm]), str(row.n), str(row.step), f"{row.mean:.4f}", Text(interval))
    return table


def list_studies(runs: Path) -> list[ListedStudy]:
    """All studies of a folder, by name, with the states of their runs."""
    return [_summarize_study(StudyFolder(path.parent)) for path in sorted(runs.glob("*/study.json"))]


def _summarize_study(store: StudyFolder) -> ListedStudy:
    question, states, error = "", Counter[str](), ""
    try:
        record = store.read_study()
        usual = _find_usual(store, record.runs)
        others = _describe_some(store, record, (run for run in record.runs if run.run_id not in usual))
        question, states = record.question, Counter(usual.values()) + Counter(row["state"] for row in others)
    except RecordError as flaw:
        error = str(flaw)
    return ListedStudy(
        study=store.path.name,
        folder=str(store.path),
        question=question,
        states=dict(sorted(states.items())),
        is_training=store.has_driver(),
        error=error,
    )


def print_studies(studies: Sequence[ListedStudy], runs: Path, *, as_json: bool) -> None:
    """Print a line per study of the folder `runs`."""
    if as_json:
        print_output(studies)
        return
    console = open_console()
    if not studies:
        print_plain(console, f"no study in {runs}: `ablate run GRID` trains one")
        return
    table = make_table(("study", "runs", "question"))
    for one in studies:
        states = ", ".join(f"{count} {state}" for state, count in one.states.items())
        shown = one.error or f"{states}{'; training' if one.is_training else ''}"
        table.add_row(Text(one.study), Text(shown, style="red" if one.error else ""), Text(one.question))
    console.print(table)


def print_status(store: StudyFolder, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(describe_runs(store), indent=1))
    else:
        open_console().print(render_status(store))


def watch_status(store: StudyFolder, every_s: float) -> None:
    """Refresh the table until the study stops, or until Ctrl-C."""
    with Live(render_status(store), console=open_console(), auto_refresh=False) as live, suppress(KeyboardInterrupt):
        while store.has_driver():
            time.sleep(every_s)
            live.update(render_status(store), refresh=True)


def describe_log(store: StudyFolder, run_id: str, n_lines: int) -> RunLog:
    """What happened to a run: its state, notes, the last lines of its curve, and its error."""
    folder, record = store.run(run_id), store.read_study()
    status = folder.read_status()
    run = next(run for run in record.runs if run.run_id == run_id)
    return RunLog(
        run_id=run_id,
        study=store.path.name,
        arm=run.arm,
        seed=run.seed,
        folder=str(folder.path),
        state=folder.shown_state(status),
        step=status.step,
        n_steps=status.known_steps,
        took_s=status.took_s,
        memory_bytes=status.memory_bytes,
        worker=status.worker,
        weights=folder.weights_flaw() if status.state == "finished" else "",
        output=str(folder.log) if folder.log.exists() else "",
        notes=status.notes,
        curve=tuple(reversed([*islice(read_backwards(folder.curve), n_lines)])),
        error=status.error,
    )


def print_log(log: RunLog) -> None:
    """Print what happened to a run as text."""
    console = open_console()
    print_plain(console, f"{log.arm},seed={log.seed}", "bold")
    facts = {
        "folder": log.folder,
        "state": log.state,
        "step": f"{log.step}/{log.n_steps}" if log.n_steps else log.step,
        "worker": log.worker,
        "took": format_seconds(log.took_s) if log.took_s else "",
        "memory": f"{format_count(log.memory_bytes)}B" if log.memory_bytes else "",
        "weights": log.weights,
        "output": log.output,
    }
    for name, value in facts.items():
        if value:
            print_plain(console, f"{name:7} {value}")
    for note in log.notes:
        print_plain(console, f"note    {note}", "yellow")
    for record in log.curve:
        values = {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in record.items()}
        print_plain(console, " ".join(f"{key}={value}" for key, value in values.items()))
    if log.error:
        print_plain(console, log.error.rstrip(), "red")
