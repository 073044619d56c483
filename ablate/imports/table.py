"""Runs from any CSV, JSON Lines or Parquet file with a column of steps: one row per step, one or more runs per file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablate.errors import RecordError, suggest
from ablate.imports.columns import Column, check_steps, group_rows, make_history, read_times
from ablate.imports.log_files import LogFile, Notes
from ablate.imports.logged_run import Floats, LoggedRun
from ablate.imports.names import CURVES, FACTS, PLACES, Names
from ablate.imports.run_names import make_id
from ablate.imports.table_files import Header, read_header, read_table

SOURCE = "tables"

STEP, RUN, TIME = "<step>", "<run>", "<time>"  # not the names of metrics, which may be called step or time
_PLACE = {"step": STEP, "run": RUN, "time": TIME}

_REPEATED = 1.5
"""Rows per step from which several runs were mixed. A run that resumed repeats fewer of its steps."""
_MOST_NAMED = 40


def recognizes(file: LogFile) -> bool:
    header = read_header(file)
    return header is not None and len(header.names) > 1


def read(files: Sequence[LogFile], names: Names, notes: Notes) -> list[LoggedRun]:
    """Read the runs of all files.

    Raises `RecordError` if a file that was named has no column of steps, or if runs cannot be told apart. Such a file
    is left out with a note if it was found in a folder.
    """
    runs: list[LoggedRun] = []
    for file in files:
        header = read_header(file)
        assert header is not None
        columns = match_columns(header, names)
        if STEP in columns.values() or file.is_given:
            runs += read_runs(file, header, columns, names, notes, (*file.folders, file.stem))
        else:
            notes.add(file.path, f"left out: {_explain_no_steps(header, names)}")
    return runs


def match_columns(header: Header, names: Names) -> dict[str, str]:
    """Map columns to the names that are looked for, as `Val Loss` to `val_loss`, and to `STEP`, `RUN` and `TIME`."""
    wanted = [name for what in (*FACTS, *CURVES) for name in names.of(what)]
    exact = {name: name for name in wanted if name in header.names}
    loose = {_simplify(name): name for name in reversed(wanted) if name not in exact}
    for name in header.names:
        if name not in exact and (known := loose.get(_simplify(name))) and known not in exact.values():
            exact[name] = known
    for what in PLACES:
        for name in names.of(what):
            column = next((c for c in header.names if c == name), None) or next(
                (c for c in header.names if _simplify(c) == _simplify(name)), None
            )
            if column is not None and (what == "step" or column not in exact):
                exact[column] = _PLACE[what]
                break
    return exact


def read_runs(
    file: LogFile,
    header: Header,
    columns: Mapping[str, str],
    names: Names,
    notes: Notes,
    place: tuple[str, ...],
    facts: Mapping[str, str] = {},
) -> list[LoggedRun]:
    """Read the runs of one file. `facts` are known from elsewhere, such as a file of hyperparameters beside it."""
    there = {known: column for column, known in columns.items()}
    if STEP not in there:
        raise RecordError(f"{file.path}: {_explain_no_steps(header, names)}")
    table = read_table(file, header, list(columns), notes)
    numbers = {known: table.numbers(there[known]) for known in (STEP, TIME) if known in there}
    curves = {n: there[n] for what in CURVES for n in names.of(what) if n in there}
    metrics = {name: table.numbers(column) for name, column in curves.items()}
    for column, read in ((there[STEP], numbers[STEP]), *((curves[n], m) for n, m in metrics.items())):
        _note_odd(file, column, read, notes)
    check_steps(file.path, there[STEP], numbers[STEP])
    texts = {n: table.texts(there[n]) for what in FACTS for n in names.of(what) if n in there}
    by = {n: texts[n] for what in ("arm", "seed") for n in names.of(what) if n in texts}
    by |= {RUN: table.texts(there[RUN])} if RUN in there else {}
    is_split = any(text.null_count < table.n_rows for text in by.values())
    found = []
    for rows in group_rows(list(by.values())) if is_split else [np.arange(table.n_rows)]:
        steps = _take(numbers[STEP], rows)
        times_s, start_s = read_times(_take(numbers[TIME], rows) if TIME in numbers else None, rows.size)
        own = {name: text for name, cells in texts.items() if (text := _agree(cells, rows)) is not None}
        key = tuple(str(cells[int(rows[0])].as_py()) for cells in by.values())
        histories = {name: make_history(steps, times_s, _take(metric, rows)) for name, metric in metrics.items()}
        histories = {name: history for name, history in histories.items() if history.steps.size}
        loss = next((histories[n].steps for n in names.of("val_loss") if n in histories), np.empty(0))
        if RUN not in by:
            _check_mixture(file, key, loss, header, columns)
        run_place = (*place, "/".join(key)) if is_split else place
        logged = frozenset(histories) | {n for n in header.names if n not in columns}
        found.append(
            LoggedRun(make_id(run_place), "finished", {**facts, **own}, logged, histories, start_s, place=run_place)
        )
    return found


def _explain_no_steps(header: Header, names: Names) -> str:
    found = suggest(names.of("step")[0], header.names).replace("legal: ", "found: ")
    return f"no column of steps, such as {' or '.join(names.of('step')[:2])}{found}; --step names another one"


def _check_mixture(
    file: LogFile, key: Sequence[str], steps: Floats, header: Header, columns: Mapping[str, str]
) -> None:
    """Raise `RecordError` if the losses at these steps are those of several runs."""
    n_steps = int(np.unique(steps).size)
    if steps.size <= 2 or steps.size < _REPEATED * n_steps:
        return
    others = ", ".join([name for name in header.names if name not in columns][:_MOST_NAMED])
    place = f"{file.path} ({'/'.join(key)})" if key else str(file.path)
    raise RecordError(
        f"{place}: {steps.size:,} losses for {n_steps:,} steps, so it mixes several runs. Name the column that tells "
        f"them apart with --seed, --arm or --run, or keep only one attempt{f' (found: {others})' if others else ''}"
    )


def _note_odd(file: LogFile, column: str, cells: Column, notes: Notes) -> None:
    if cells.n_odd:
        what = "cell that is not a number" if cells.n_odd == 1 else "cells that are not numbers"
        notes.add(file.path, f"left out {cells.n_odd:,} {what}", column)


def _take(column: Column, rows: Any) -> Column:
    return Column(column.values[rows], column.is_there[rows])


def _agree(cells: Any, rows: Any) -> str | None:
    """The text that all rows with a text agree on; None if there is no such text."""
    found = cells.take(rows).drop_null().unique()
    return str(found[0].as_py()) if len(found) == 1 else None


def _simplify(name: str) -> str:
    return re.sub(r"[\s_]+", "_", name.strip().casefold())
