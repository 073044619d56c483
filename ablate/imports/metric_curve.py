"""The metrics of an imported run: which points count, and whether a cost is plausible for a training.

Arrays are [point] of one metric, or [line] of a curve. Costs are checked before they are used: they have to begin where
training begins, must not fall, and must not jump in a way that training cannot explain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ablate.analysis.curve_columns import Floats
from ablate.imports.logged_run import History

SHARE = 0.1
"""The share of a run's whole cost that may be unexplained, at its beginning or in a jump."""

MAX_PACE = 3.0
"""An interval is a jump if its cost per step is above this multiple of the median."""


@dataclass(frozen=True, eq=False)
class Curve:
    """The points of a metric that count. Steps strictly increase. `returns` holds the (time, step) of each rollback."""

    steps: Floats
    times_s: Floats
    values: Floats
    returns: tuple[tuple[float, float], ...] = ()

    @property
    def size(self) -> int:
        return int(self.steps.size)

    @property
    def largest_gap(self) -> float:
        return float(np.diff(self.steps).max()) if self.size > 1 else 0.0

    @property
    def interval(self) -> float:
        """The median number of steps between two points; 1 if there is only one point."""
        return float(np.median(np.diff(self.steps))) if self.size > 1 else 1.0

    def keep(self, is_kept: NDArray[np.bool_]) -> Curve:
        return Curve(self.steps[is_kept], self.times_s[is_kept], self.values[is_kept], self.returns)


def settle(history: History) -> Curve:
    """Keep the points that count. If a step was logged twice, the later point counts.

    If the training went back, it undid the points that had been logged from there on. A single point at an earlier
    step, such as an evaluation of the best checkpoint, undoes nothing.
    If steps go back in time although each was logged once, as evenly as in one pass, the clock was changed. Then all
    points count, and their times are unknown.
    """
    is_step = (history.steps >= 0) & (history.steps == np.floor(history.steps))
    steps, times_s, values = history.steps[is_step], history.times_s[is_step], history.values[is_step]
    changes = np.diff(steps)
    back = np.flatnonzero(changes < 0) + 1
    order = np.argsort(steps, kind="stable")
    if back.size:
        apart = np.diff(steps[order])
        if apart.min() > 0 and apart.min() >= min(changes[changes > 0], default=0):
            times_s = np.full(steps.size, np.nan)
            back = back[:0]
    goes_on = np.append(changes, np.inf)[back] <= 1.5 * max(np.delete(changes, back[back < changes.size]), default=0)
    is_aside = np.zeros(steps.size, bool)
    is_aside[back[~goes_on]] = True
    returns = tuple(zip(times_s[back[goes_on]].tolist(), steps[back[goes_on]].tolist(), strict=True))
    if back.size:
        least = np.minimum.accumulate(np.where(is_aside, np.inf, steps)[::-1])[::-1]
        is_kept = steps < np.append(least[1:], np.inf)
        order = order[is_kept[order]]
    is_last = np.append(np.diff(steps[order]) > 0, True)[: order.size]
    order = order[is_last]
    return Curve(steps[order], times_s[order], values[order], returns)


def undo(curve: Curve, returns: Iterable[tuple[float, float]]) -> Curve:
    """Drop the points that a rollback undid. Rollbacks may have been seen in another metric of the run."""
    for time_s, step in returns:
        curve = curve.keep(~((curve.steps > step) & (curve.times_s < time_s)))
    return curve


def join(histories: Sequence[History]) -> History:
    """Concatenate histories of one metric."""
    parts = [(history.steps, history.times_s, history.values) for history in histories]
    return History(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def counts_same_steps(one: Curve, other: Curve) -> bool | None:
    """Tell whether two metrics count the same steps, rather than epochs and iterations; None if this is unknown.

    They do if both end at about the same step, or if the other metric was at about the last step of the first one at
    the same time.
    """
    if not one.size or other.size < 2 or other.steps[-1] == 0:
        return None
    places, times_s = [float(other.steps[-1])], other.times_s
    if np.isfinite(times_s).all() and np.isfinite(one.times_s[-1]) and (np.diff(times_s) >= 0).all():
        places.append(float(np.interp(one.times_s[-1], times_s, other.steps)))
    return min(abs(float(one.steps[-1]) - at) for at in places) <= max(one.largest_gap, other.largest_gap)


def begins_late(curve: Curve) -> bool | None:
    """Tell whether the curve begins in the middle of a training; None if it has too few points to tell.

    A training that is evaluated every n steps is first evaluated after about n steps. A point at step 0 may be the
    check of a resumed run, so the next point counts. If the clock had run for as long as the steps before the first
    point take, the run made these steps.
    """
    later = curve.keep(curve.steps > 0)
    if later.size < 2:
        return None
    first, gap = float(later.steps[0]), float(later.steps[1] - later.steps[0])
    if first <= 1.5 * gap:
        return False
    pace = float(np.median(np.diff(later.times_s) / np.diff(later.steps)))
    return not 0.75 * first * pace <= later.times_s[0] <= 1.5 * first * pace


def find_fault(what: str, steps: Floats, costs: Floats, first: float = 0.0, slack: float = 0.0) -> str:
    """Say why the cost at these steps cannot be that of a training which began at step `first`; empty if it can.

    `what` names its source, the count or the clock. `slack` is the number of steps by which the cost may be off at the
    beginning: one if the first step is called 0.
    """
    if not np.isfinite(costs).all():
        return f"the {what} was changed, or is not known"
    if costs.size < 2:
        return f"the {what} was logged only once"
    changes, n_steps = np.diff(costs), np.diff(steps)
    if (changes < 0).any():
        return f"the {what} goes back"
    pace = float(np.median(changes / n_steps))
    if pace <= 0:
        return f"the {what} does not grow with the steps"
    whole = pace * float(steps[-1] - first)
    if abs(float(costs[0]) - pace * float(steps[0] - first)) > SHARE * whole + slack * pace:
        return f"the {what} does not begin where the training begins"
    if (changes - MAX_PACE * pace * n_steps).max() > SHARE * whole:
        return f"the {what} jumps"
    return ""


def spread_cost(step_l: Floats, steps: Floats, costs: Floats) -> Floats:
    """Interpolate a cost at every line of a curve.

    It is linear between the steps where it is known and starts from 0 at step 0. After the last of them it continues at
    the same pace for one interval, and is nan beyond that.
    """
    if steps[0] > 0:
        steps, costs = np.append(0.0, steps), np.append(0.0, costs)
    n_last = steps[-1] - steps[-2]
    beyond = costs[-1] + (step_l - steps[-1]) * (costs[-1] - costs[-2]) / n_last
    after = np.where(step_l <= steps[-1] + np.diff(steps).max(), beyond, np.nan)
    return np.where(step_l > steps[-1], after, np.interp(step_l, steps, costs))
