"""The common form of runs that other programs logged. Every importer returns it, whatever it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablate.tracking.study_record import State

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class History:
    """A metric of a run. Each array is [point], in the order in which the points were logged.

    `times_s` are Unix times (s), nan if unknown. `values` may contain nan and infinities.
    """

    steps: Floats
    times_s: Floats
    values: Floats


@dataclass(frozen=True, eq=False)
class LoggedRun:
    """One run: its facts and its metrics.

    `facts` are its params, tags or config by name, as text. `logged` names all of its metrics, and `histories` holds
    those that were read. `start_s` is a Unix time, nan if unknown. `status` is the state as the other program names it,
    and `parent` the id of the run below which this one was logged. `place` holds the folders and the file that it was
    read from, and its name in that file; empty if it was not read from a file.
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
    place: tuple[str, ...] = ()
