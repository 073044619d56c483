"""Runs that repeat the numbers of another seed. If both counted, a difference would look more certain than it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ablate.analysis.run_curve import RunCurve

N_DISTINCT = 3
"""Fewer distinct values of the metric can be equal by chance, as with an accuracy that stays at 0 or 1."""


def find_repeats(runs: Iterable[RunCurve]) -> Mapping[str, int]:
    """Run id -> seed of an earlier run of the same arm that logged the very same numbers.

    A program that does not read its seed trains the same run again. Clock times do not count. Only programs are
    checked: ablate's own training always uses the seed, and a log may be of anything.
    """
    first: dict[tuple[str, bytes], int] = {}
    repeats: dict[str, int] = {}
    for run in runs:
        if "program" in run.config and run.has_ended and np.unique(run.evaluation_loss).size >= N_DISTINCT:
            losses = (run.columns["step"], run.columns["train_loss"], run.evaluation_loss)
            key = run.arm, b"".join(column.tobytes() for column in losses)
            seed = first.setdefault(key, run.seed)
            if seed != run.seed:
                repeats[run.run_id] = seed
    return repeats
