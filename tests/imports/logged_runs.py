"""Runs of other programs in the form that every reader fills, without those programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ablate.analysis import speed_ups
from ablate.analysis.results import Results
from ablate.analysis.selection import rebase
from ablate.imports.logged_run import History, LoggedRun
from ablate.imports.names import Names
from ablate.imports.study import read_study
from ablate.tracking.study_record import State

STEPS = tuple(range(0, 2001, 100))
DAY = 86_400.0
Points = Sequence[tuple[float, float, float]]  # step, value, seconds since the start of the run


def slow(step: float) -> float:
    return 5 - math.log1p(step) / 2


def fast(step: float) -> float:
    return 5 - math.log1p(2 * step) / 2


LOSSES = {"gpt": slow, "new": fast}


class Lab:
    """Collects runs that start a day apart."""

    def __init__(self) -> None:
        self.runs: list[LoggedRun] = []

    def log(
        self,
        curves: Mapping[str, Points],
        facts: Mapping[str, object] = {},
        state: State = "finished",
        parent: str | None = None,
    ) -> str:
        start_s, run_id = 1e9 + DAY * len(self.runs), f"run-{len(self.runs)}"
        histories = {
            name: History(*np.array([(step, start_s + time, value) for step, value, time in points], float).T)
            for name, points in curves.items()
            if points
        }
        texts = {name: str(value) for name, value in facts.items()}
        self.runs.append(
            LoggedRun(run_id, state, texts, frozenset(histories), histories, start_s, state.upper(), None, parent)
        )
        return run_id

    def train(
        self,
        arm: str,
        seed: object,
        first: int = 0,
        last: int = 2000,
        pace: float = 1.0,
        state: State = "finished",
        more: Mapping[str, Points] = {},
        clock: Callable[[float], float] | None = None,
        metric: str = "val/loss",
        **facts: object,
    ) -> str:
        """A curve from step `first` to `last`, evaluated every 100, at `pace` seconds per step, offset per seed."""
        offset = seed / 100 if isinstance(seed, int) else 0.0
        tell = clock or (lambda step: (step - first) * pace + 5)
        points = [(s, LOSSES[arm](s) + offset, tell(s)) for s in STEPS if first <= s <= last]
        return self.log({metric: points, **more}, {"arm": arm, "seed": seed, "device": "A100", **facts}, state)

    def read(self, **chosen: str) -> Results:
        return read_study("X", self.runs, Names(chosen), "the logger")

    def compare(self, axis: str = "steps", target: Any = "final", **chosen: str) -> Any:
        """The row of `new` against `gpt`."""
        rows = speed_ups(rebase(self.read(**chosen), {"arm": "gpt"}), (target,))
        return next(row for row in rows if (row.arm, row.axis) == ("new", axis))
