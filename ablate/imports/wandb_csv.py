"""CSV files from W&B's web pages: charts, with one column per run and metric, and the table of runs.

A chart has the columns `Step`, `RUN - METRIC`, `RUN - METRIC__MIN` and `RUN - METRIC__MAX`. Several charts are
joined by the names of runs. The table of runs has each run's config and last values, so it adds facts but no curves.
The history of one run, as `run.history().to_csv()` writes it, is an ordinary table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ablate.errors import RecordError
from ablate.imports.columns import Column, check_steps, make_history, read_times
from ablate.imports.log_files import LogFile, Notes
from ablate.imports.logged_run import History, LoggedRun
from ablate.imports.names import Names
from ablate.imports.run_names import make_id
from ablate.imports.table_files import Header, Table, read_header, read_table
from ablate.tracking.study_record import State

SOURCE = "W&B's CSV export"

_BOUNDS = ("__MIN", "__MAX")
_STEP = "Step"
_RUN_STEP = "_step"  # the steps of each run, in a chart over something else
_RELATIVE = ("Relative Time (Process)", "Relative Time (Wall)")
_OF_RUNS = frozenset({"State", "Created", "Runtime", "Notes", "User", "Tags", "Sweep", "ID", "Hostname"})
_GROUP = "Group: "
_SETTING = re.compile(r"([A-Za-z_][\w./-]*): (.+)")  # a group of runs with this setting
_STATES: Mapping[str, State] = {"running": "running", "crashed": "failed", "failed": "failed", "killed": "failed"}


@dataclass(frozen=True, eq=False)
class _Chart:
    """The columns of a chart by run and metric, and those with the least and largest values."""

    file: LogFile
    header: Header
    columns: Mapping[tuple[str, str], str]


def recognizes(file: LogFile) -> bool:
    header = read_header(file)
    return header is not None and bool(header.delimiter) and (_is_chart(header) or _is_list(header))


def read(files: Sequence[LogFile], names: Names, notes: Notes) -> list[LoggedRun]:
    """Read the runs of all charts, with the facts in the tables of runs.

    Raises `RecordError` if there is no chart, or if the x axis of a chart is not steps.
    """
    headers = {file: header for file in files if (header := read_header(file)) is not None}
    charts = [_Chart(file, h, _split_columns(h, names)) for file, h in headers.items() if _is_chart(h)]
    lists = [file for file, header in headers.items() if not _is_chart(header)]
    if not charts:
        raise RecordError(
            f"{lists[0].path}: this is W&B's table of runs: it has their last values and no curves. Export the chart "
            "of the loss as CSV and give both files"
        )
    facts = _read_lists(lists, headers, notes)
    metrics = frozenset(metric for chart in charts for _, metric in chart.columns)
    found: dict[str, dict[str, tuple[History, float]]] = {}
    for chart in charts:
        for run, curves in _read_chart(chart, names, notes).items():
            known = found.setdefault(run, {})
            for metric, history in curves.items():
                if metric not in known or known[metric][0].steps.size < history[0].steps.size:
                    known[metric] = history
    runs = []
    for run, curves in found.items():
        own = dict(facts.get(run, {}))
        if setting := _SETTING.fullmatch(run):
            own.setdefault(setting[1], setting[2])
        starts = {start for _, start in curves.values()}
        histories = {metric: history for metric, (history, _) in curves.items()}
        state = own.get("State", "finished").lower()
        runs.append(
            LoggedRun(
                make_id((run,)),
                _STATES.get(state, "finished"),
                own,
                metrics,
                histories,
                0.0 if starts == {0.0} else float("nan"),
                state,
                place=(run,),
            )
        )
    return runs


def _is_chart(header: Header) -> bool:
    names = set(header.names)
    return any(" - " in name and all(f"{name}{bound}" in names for bound in _BOUNDS) for name in header.names[1:])


def _is_list(header: Header) -> bool:
    return "Name" in header.names and not _OF_RUNS.isdisjoint(header.names)


def _split_columns(header: Header, names: Names) -> dict[tuple[str, str], str]:
    """Split `RUN - METRIC`. Both may contain the separator, so the metrics that are looked for are tried first."""
    found = {}
    for column in header.names[1:]:
        if " - " not in column or column.endswith(_BOUNDS):
            continue
        bare, _, again = column.partition(" (") if re.search(r" \(\d+\)$", column) else (column, "", "")
        metric = next((n for n in names.of_curves if bare.endswith(f" - {n}")), bare.rpartition(" - ")[2])
        run = bare.removesuffix(f" - {metric}").removeprefix(_GROUP)
        found[f"{run} ({again}" if again else run, metric] = column
    return found


def _read_chart(chart: _Chart, names: Names, notes: Notes) -> dict[str, dict[str, tuple[History, float]]]:
    """Read the history of each metric of each run, and whether its times count from the start of the run."""
    x, path = chart.header.names[0], chart.file.path
    wanted = {key: column for key, column in chart.columns.items() if key[1] in names.of_curves}
    own_steps = {run: column for (run, metric), column in chart.columns.items() if metric == _RUN_STEP}
    is_step = x == _STEP or x in names.of("step")
    if not is_step and not own_steps:
        raise RecordError(
            f"{path}: its x axis is {x!r}, which does not count steps. Export the chart with Step on the x axis, or "
            f"name the axis with --step '{x}' if it counts steps"
        )
    bounds = [f"{column}{bound}" for column in wanted.values() for bound in _BOUNDS]
    table = read_table(chart.file, chart.header, {x, *own_steps.values(), *wanted.values(), *bounds}, notes)
    shared = table.numbers(x)
    if is_step:
        check_steps(path, x, shared)
    found: dict[str, dict[str, tuple[History, float]]] = {}
    for (run, metric), column in wanted.items():
        if not is_step and run not in own_steps:
            notes.add(run, "left out, because the chart does not have its steps")
            continue
        steps = shared if is_step else table.numbers(own_steps[run])
        times_s, start_s = read_times(shared if x in _RELATIVE else None, table.n_rows)
        values = table.numbers(column)
        _note_bounds(run, column, values, table, notes)
        found.setdefault(run, {})[metric] = make_history(steps, times_s, values), start_s
    return found


def _note_bounds(run: str, column: str, values: Column, table: Table, notes: Notes) -> None:
    """Say what a point stands for if it has a range: a group of runs, or an interval of steps."""
    for bound in _BOUNDS:
        if f"{column}{bound}" not in table.arrays:
            return
        other = table.numbers(f"{column}{bound}")
        both = values.is_there & other.is_there
        if not np.array_equal(values.values[both], other.values[both], equal_nan=True):
            is_group = column.startswith(_GROUP) or _SETTING.fullmatch(run) is not None
            notes.add(
                run,
                "a group of runs, of which W&B exports only the mean: without its runs there is no interval"
                if is_group
                else "W&B exported one point per interval of steps and not every point",
            )
            return


def _read_lists(files: Sequence[LogFile], headers: Mapping[LogFile, Header], notes: Notes) -> dict[str, dict[str, str]]:
    """Read the config of each run by its name. Names that several runs have are left out."""
    found: dict[str, dict[str, str]] = {}
    repeated = set()
    for file in files:
        table = read_table(file, headers[file], headers[file].names, notes)
        cells = {name: table.texts(name).to_pylist() for name in headers[file].names}
        for row, run in enumerate(cells["Name"]):
            if run is None:
                continue
            if run in found:
                repeated.add(run)
            found[run] = {name: str(column[row]) for name, column in cells.items() if column[row] is not None}
    for run in repeated:
        notes.add(run, "several runs in W&B's table have this name, so their config is not used")
        del found[run]
    return found
