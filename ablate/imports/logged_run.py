"""Runs as another program logged them: the form that every reader of foreign runs fills, whatever it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablate.tracking.study_record import State

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class History:
    """A metric of a run, each array [point], in the order in which the points were logged.

    `times_s` are Unix times (s), nan where they are unknown. `values` hold nan and the infinities as what they are.
    """

    steps: Floats
    times_s: Floats
    values: Floats


@dataclass(frozen=True, eq=False)
class LoggedRun:
    """One run: what it says about itself, and its metrics.

    `facts` are its params, tags or config by name, as text. `logged` names every metric that it has, `histories` holds
    those that were read. `start_s` is a Unix time, nan where it is unknown. `status` is the state in the words of the
    program that logged it, `parent` the id of the run that this one was logged below.
    """

    run_id: str
    state: State
    facts: Mapping[str, str]
    logged: frozenset[str]
    histories: Mapping[str, History]
    start_s: float = float("nan")
    status: str = ""
    commit: str | None = None
    parent: str | None = None
