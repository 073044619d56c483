"""Arms that share a learning rate with their baseline which neither of them had tuned.

The best learning rate differs between arms, so such a comparison may only show for which of them this one happens to
be better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve

RATE = "learning_rate"
_AXES = frozenset({RATE, f"train.{RATE}"})


@dataclass(frozen=True)
class Untuned:
    """The arms that share an untuned learning rate with their baseline, the rates, and whether these are all arms."""

    arms: tuple[str, ...]
    rates: tuple[float, ...]
    is_all: bool


def find_untuned(results: Results) -> Untuned | None:
    """Find the arms whose verdict holds for one learning rate only; None if every verdict holds for more.

    With the learning rate as axis, its levels are compared, so no arm counts. Neither does one whose rate is unknown.
    """
    if _AXES & results.record.axes.keys():
        return None
    tuned = results.record.tuning.get("arms")
    names = set(tuned) if isinstance(tuned, Mapping) else set()
    found: dict[str, float] = {}
    for arm in results.compared_arms:
        base = results.baseline_of(arm)
        mine, theirs = (_collect_rates(results.runs_of(name)) for name in (arm, base))
        if len(mine) == 1 and mine == theirs and not {arm, base} & names:
            found[arm] = mine.pop()
    if not found:
        return None
    return Untuned(tuple(found), tuple(sorted(set(found.values()))), len(found) == len(results.compared_arms))


def _collect_rates(runs: tuple[RunCurve, ...]) -> set[float]:
    """The learning rates of runs with a result that were not chosen by trials."""
    rates = set()
    for run in runs:
        train = run.config.get("train")
        rate = train.get(RATE) if isinstance(train, Mapping) else None
        if isinstance(rate, int | float) and np.isfinite(run.final_loss) and not run.manifest.get("tuning_trials"):
            rates.add(float(rate))
    return rates
