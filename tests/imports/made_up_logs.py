"""Made-up runs in tables: two arms, `new` twice as fast as `gpt`, and how they compare."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from log_writers import write_csv

from ablate.analysis import speed_ups
from ablate.analysis.results import Results
from ablate.analysis.selection import rebase
from ablate.imports.log_study import read_log_study
from ablate.imports.names import Names

STEPS = range(0, 2001, 100)
Rows = list[dict[str, Any]]


def rows_of(arm: str, seed: int, last: int = 2000, **more: Any) -> Rows:
    """A run of `gpt`, or of `new`, which is twice as fast. Functions in `more` give a column by the step."""
    speed = 2 if arm == "new" else 1
    return [
        {"step": step, "val_loss": 5 + seed / 100 - math.log1p(speed * step) / 2}
        | {name: value(step) if callable(value) else value for name, value in more.items()}
        for step in STEPS
        if step <= last
    ]


def write_runs(folder: Path, changed: Mapping[str, Rows] = {}, **more: Any) -> Path:
    for arm in ("gpt", "new"):
        for seed in range(2):
            name = f"{arm}-seed{seed}"
            write_csv(folder / f"{name}.csv", changed.get(name) or rows_of(arm, seed, **more))
    return folder


def read(*paths: Path, **chosen: str) -> Results:
    return read_log_study([str(path) for path in paths], Names(chosen))


def compare(results: Results, axis: str = "steps") -> Any:
    rows = speed_ups(rebase(results, {"arm": "gpt"}), ("final",))
    return next(row for row in rows if (row.arm, row.axis) == ("new", axis))


TWICE = pytest.approx(2.0, abs=0.05)
