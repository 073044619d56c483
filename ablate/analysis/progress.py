"""How far the arms of a study are: the metric averaged over seeds at the last step that all of them have reached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ablate.analysis.intervals import paired_t
from ablate.analysis.results import Results


@dataclass(frozen=True)
class ArmProgress:
    """The mean of the metric over the `n` seeds of an arm that have been evaluated, at a common `step`.

    `low` and `high` are the ends of its 95 % interval by Student's t, null for one seed.
    """

    arm: str
    n: int
    step: int
    mean: float
    low: float | None
    high: float | None


def average_seeds(results: Results) -> Iterator[ArmProgress]:
    """One row per arm that has been evaluated, in the order of the study.

    The step is the last evaluation of the seed that is least far. Runs that diverged or failed are left out.
    """
    for arm in results.arms:
        runs = [
            run
            for run in results.runs_of(arm)
            if run.evaluation_loss.size and run.state not in ("diverged", "failed") and run.repeats is None
        ]
        if not runs:
            continue
        step = min(float(run.cost_of_evaluations("steps")[-1]) for run in runs)
        values = np.array([np.interp(step, run.cost_of_evaluations("steps"), run.evaluation_loss) for run in runs])
        low, high = None, None
        if values.size > 1:
            found = paired_t(values)
            low, high = float(found.low), float(found.high)
        yield ArmProgress(arm, values.size, int(step), float(values.mean()), low, high)
