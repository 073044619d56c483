"""`trainer_state.json` of Hugging Face's Trainer. Checkpoints of one run repeat its log; the longest one counts.

The hyperparameters beside it are in `training_args.bin`, a pickle, which is never loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ablate.errors import RecordError
from ablate.formatting import count
from ablate.imports.columns import Column, make_history, read_numbers
from ablate.imports.log_files import LogFile, Notes
from ablate.imports.logged_run import LoggedRun
from ablate.imports.names import Names
from ablate.imports.run_names import make_id
from ablate.imports.table_files import flatten, to_arrow
from ablate.tracking.study_record import State

SOURCE = "Hugging Face's trainer_state.json"

_CHECKPOINT = re.compile(r"checkpoint-\d+")
_END = "train_runtime"  # the Trainer logs it once, when the training ends


def recognizes(file: LogFile) -> bool:
    return file.path.suffix == ".json" and file.head.lstrip().startswith(b"{") and b'"log_history"' in file.head


def find_run(file: LogFile) -> tuple[str, ...]:
    """The folder of a run: that of the file, or the one above if the file is in a checkpoint."""
    folders = file.folders
    return folders[:-1] if folders and _CHECKPOINT.fullmatch(folders[-1]) else folders


def read(files: Sequence[LogFile], names: Names, notes: Notes) -> list[LoggedRun]:
    """Read one run per folder of a run. Raises `RecordError`, naming the file, if one is damaged."""
    states: dict[tuple[str, ...], list[tuple[int, int, LogFile, Mapping[str, Any]]]] = {}
    for file in files:
        state = _read_state(file)
        rank = (_whole(state.get("global_step")) or 0, -len(file.folders))
        states.setdefault(find_run(file), []).append((*rank, file, state))
    runs = []
    for place, found in states.items():
        _, _, file, state = max(found, key=lambda one: one[:2])
        runs.append(_describe(place, file, state, names, notes))
    return runs


def _read_state(file: LogFile) -> Mapping[str, Any]:
    try:
        state = json.loads(file.path.read_bytes())
    except (ValueError, RecursionError):
        raise RecordError(f"{file.path}: this file is damaged: it is not JSON") from None
    rows = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise RecordError(f"{file.path}: log_history is not a list of what was logged")
    return dict(state)


def _describe(place: tuple[str, ...], file: LogFile, state: Mapping[str, Any], names: Names, notes: Notes) -> LoggedRun:
    rows = [flatten(row) for row in state["log_history"]]
    ends = [index for index, row in enumerate(rows) if _END in row]
    if ends and any("eval_loss" in row for row in rows[ends[-1] + 1 :]):
        notes.add(
            file.path,
            "evaluations after the training do not count, because they may be of the best checkpoint",
        )
        rows = rows[: ends[-1] + 1]
    steps = _column(rows, names.of("step"))
    logged = frozenset(name for row in rows for name in row)
    histories = {}
    for name in names.of_curves:
        if name in logged:
            history = make_history(steps, np.full(len(rows), np.nan), _column(rows, (name,)))
            if history.steps.size:
                histories[name] = history
    last, planned = _whole(state.get("global_step")), _whole(state.get("max_steps"))
    is_whole = bool(ends) or last is None or planned is None or last >= planned
    ended: State = "finished" if is_whole else "failed"
    facts = {name: str(state[name]) for name in ("max_steps", "num_train_epochs") if _whole(state.get(name))}
    trial = state.get("trial_params")
    leaves = flatten(trial) if isinstance(trial, dict) else {}
    facts |= {name: str(value) for name, value in leaves.items() if value is not None}
    status = "" if is_whole else f"that it stopped at step {last:,} of {count(planned or 0, 'step')}"
    return LoggedRun(make_id(place), ended, facts, logged, histories, status=status, place=place)


def _column(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Column:
    return read_numbers(to_arrow([next((row[name] for name in names if name in row), None) for row in rows]))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
