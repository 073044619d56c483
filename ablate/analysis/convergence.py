"""The first lasting crossing of a target by a loss curve.

Only evaluation losses count, not training losses and not the best so far. A crossing lies between two evaluations, at a
fraction that is linear in the loss and in the logarithm of the cost. The fraction does not depend on the axis of cost,
so one crossing gives the cost in steps, tokens, FLOPs and seconds.

If higher values of a metric are better, `reach_loss` negates them and the target. This is the one place where a
crossing depends on the metric's direction, so a metric and its negative give the same costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ablate.analysis.curve_columns import Floats
from ablate.analysis.run_curve import RunCurve

HOLD = 2
"""Evaluations in a row that must be at or below the target for a crossing to count."""

Side = Literal["reached", "never", "before"]


@dataclass(frozen=True)
class Position:
    """A place on a curve: `fraction` of the way (in log cost) from evaluation `index - 1` to evaluation `index`."""

    index: int
    fraction: float


def find_crossing(loss_e: Floats, target: float, hold: int = HOLD, is_whole: bool = True) -> Position | None:
    """Find the first position from which `hold` evaluations in a row are at or below `target` (nats per token).

    At the end of a whole run fewer are enough: its last evaluation is a crossing by itself. This does not hold for a
    run that diverged or was stopped. None if the target is never reached; Position(0, 1.0) if the first evaluation is
    already below it.
    """
    is_below = loss_e <= target
    end = len(is_below) if is_whole else len(is_below) - hold + 1
    for index in np.flatnonzero(is_below[: max(end, 0)]):
        if is_below[index : index + hold].all():
            if index == 0:
                return Position(0, 1.0)
            before, after = loss_e[index - 1], loss_e[index]
            return Position(int(index), float((before - target) / (before - after)))
    return None


def find_share(steps_e: Floats, share: float) -> Position | None:
    """Find the position at `share` (0 to 1) of the budget, which ends at the last evaluation. None before the first."""
    step = share * float(steps_e[-1])
    index = int(np.searchsorted(steps_e, step))
    if share >= 1 or index >= len(steps_e):
        return Position(len(steps_e) - 1, 1.0)
    if index == 0:
        return Position(0, 1.0) if steps_e[0] == step else None
    low, high = float(steps_e[index - 1]), float(steps_e[index])
    fraction = math.log(step / low) / math.log(high / low) if low > 0 else step / high
    return Position(index, fraction)


def cost_at(cost_e: Floats, position: Position) -> float:
    """Interpolate the cost at a position in log cost, or in the cost if the evaluation before it cost nothing."""
    high = float(cost_e[position.index])
    if position.index == 0:
        return high
    low = float(cost_e[position.index - 1])
    if low > 0:
        return math.exp(math.log(low) + position.fraction * (math.log(high) - math.log(low)))
    return low + position.fraction * (high - low)


def loss_at(loss_e: Floats, position: Position) -> float:
    """Interpolate the loss (nats per token) at a position."""
    after = float(loss_e[position.index])
    if position.index == 0 or position.fraction == 1:
        return after
    before = float(loss_e[position.index - 1])
    return before + position.fraction * (after - before)


@dataclass(frozen=True)
class Reach:
    """How a run met a target.

    `side` is `reached` (at `position`), `never` (censored where the run ended) or `before` (censored at the first
    evaluation, from the other side).
    """

    run: RunCurve
    side: Side
    position: Position | None

    def cost(self, axis: str) -> float:
        """Return the cost at the position, or where the run was censored; nan if the axis was not recorded."""
        if self.position is None:
            known = self.run.cost(axis)
            known = known[np.isfinite(known)]
            return float(known[-1]) if known.size else math.nan
        return cost_at(self.run.cost_of_evaluations(axis), self.position)


def reach_loss(run: RunCurve, target: float, hold: int = HOLD) -> Reach:
    """Find how an ended run met an absolute target, a value of its metric."""
    orient = run.metric.orient
    position = find_crossing(orient(run.evaluation_loss), orient(target), hold, run.is_whole)
    if position is None:
        return Reach(run, "never", None)
    return Reach(run, "before" if position.index == 0 else "reached", position)
