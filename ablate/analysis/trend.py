"""Whether a speed-up grows along an axis of numbers, such as a horizon or a context, within whose levels arms are
compared.

For each seed and level, the log speed-up is a point; a straight line in the logarithm of the level, with the seed as a
block, gives the growth from the first level to the last. With two levels that is Student's t on the paired differences.
With more, what does not lie on a line counts as noise, so the interval is wide rather than wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ablate.analysis.arrow import Floats
from ablate.analysis.convergence import Reach
from ablate.analysis.curves import Results
from ablate.analysis.intervals import t_estimate
from ablate.analysis.speedup import LARGEST_LOG, Bound, compare, find_obstacle
from ablate.tracking.records import ArmRecord, Value

NEGLIGIBLE = 1e-9
"""Weight below which a point does not count in the growth: rounding leaves about 1e-16, a real share at least 1e-2."""


@dataclass(frozen=True)
class Trend:
    """How the speed-up to the baseline's final loss changes along the axis `along`, from `first` to `last` of `levels`.

    `family` holds the arm's levels on its other axes. `growth` is the speed-up at the last level over that at the
    first, on the cost `axis`; `low`, `high` and `p_value` as of a speed-up, null below two seeds. Where runs were
    censored and all pull to one side, `growth` is null and `bound` says which of `low` and `high` is the limit.
    `n_points` counts the pairs of runs; `note` says why there is no number, or no interval.
    """

    family: Mapping[str, Value]
    along: str
    levels: tuple[float, ...]
    axis: str
    arms: tuple[str, ...]
    growth: float | None = None
    low: float | None = None
    high: float | None = None
    bound: Bound | None = None
    n_points: int = 0
    p_value: float | None = None
    note: str = ""

    @property
    def first(self) -> float:
        return self.levels[0]

    @property
    def last(self) -> float:
        return self.levels[-1]

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"family": dict(self.family)}


@dataclass(frozen=True)
class _Point:
    """One pair of runs: its seed, its level, its log speed-up, and on which side the truth lies where it is censored
    (-1: at most this, 1: at least)."""

    seed: int
    level: float
    log_ratio: float
    side: int


def find_trends(results: Results) -> tuple[Trend, ...]:
    """A row for each family of arms that differ in one numeric axis of `compare_within` alone, and each cost axis."""
    return tuple(
        _fit(results, replace(trend, axis=axis))
        for along in results.record.compare_within
        for trend in _list_families(results, along)
        for axis in results.cost_axes
    )


def _list_families(results: Results, along: str) -> Iterator[Trend]:
    families: dict[tuple[tuple[str, Value], ...], list[ArmRecord]] = {}
    for name in results.compared_arms:
        arm = results.arms[name]
        others = tuple((axis, level) for axis, level in arm.axes.items() if axis != along)
        families.setdefault(others, []).append(arm)
    for family, arms in families.items():
        levels = [arm.axes.get(along) for arm in arms]
        if len(arms) > 1 and all(_is_positive(level) for level in levels):
            ordered = sorted(arms, key=lambda arm: float(arm.axes[along]))
            yield Trend(
                family=dict(family),
                along=along,
                levels=tuple(arm.axes[along] for arm in ordered),
                axis="",
                arms=tuple(arm.arm for arm in ordered),
            )


def _is_positive(level: Value) -> bool:
    return isinstance(level, int | float) and not isinstance(level, bool) and level > 0


def _fit(results: Results, trend: Trend) -> Trend:
    points: list[_Point] = []
    for arm, level in zip(trend.arms, trend.levels, strict=True):
        comparison = compare(results, arm, "final")
        name = f"{trend.along}={level:g}"
        if not comparison.arm:
            return replace(trend, note=f"{name}: {'; '.join(comparison.notes)}")
        if not comparison.is_paired:
            return replace(trend, note=f"{name}: the seeds do not match")
        if obstacle := find_obstacle(comparison, trend.axis):
            return replace(trend, note=f"{name}: {obstacle}")
        points += _read_points(comparison.baseline, comparison.arm, level, trend.axis)
    if not all(math.isfinite(point.log_ratio) for point in points):
        return replace(trend, note=f"{trend.axis}: not recorded, or nothing was spent before the target was reached")
    return _estimate(replace(trend, n_points=len(points)), points)


def _read_points(baseline: Sequence[Reach], arm: Sequence[Reach], level: float, axis: str) -> Iterator[_Point]:
    for base, mine in zip(baseline, arm, strict=True):
        costs = base.cost(axis), mine.cost(axis)
        log_ratio = math.log(costs[0] / costs[1]) if min(costs) > 0 else math.nan
        yield _Point(mine.run.seed, level, log_ratio, {"reached": 0, "never": -1, "before": 1}[mine.side])


def _estimate(trend: Trend, points: Sequence[_Point]) -> Trend:
    values: Floats = np.array([point.log_ratio for point in points], np.float64)
    seeds = list(dict.fromkeys(point.seed for point in points))
    span = math.log(trend.last / trend.first)
    slope = np.array([math.log(point.level / trend.first) / span for point in points])
    design = np.column_stack([slope, [[point.seed == seed for seed in seeds] for point in points]]).astype(np.float64)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return replace(trend, note="no seed has runs at two levels")
    weights = np.linalg.pinv(design)[0]  # of each point in the growth
    idle = [point.side != 0 and abs(weight) < NEGLIGIBLE for point, weight in zip(points, weights, strict=True)]
    if any(idle):  # a censored value that the growth does not hang on says nothing about the noise either
        kept = [point for point, is_idle in zip(points, idle, strict=True) if not is_idle]
        return _estimate(replace(trend, n_points=len(kept)), kept)
    growth = float(weights @ values)
    pulls = {int(np.sign(weight)) * point.side for weight, point in zip(weights, points, strict=True)} - {0}
    if pulls == {-1}:
        return replace(trend, bound="at_most", high=math.exp(growth))
    if pulls == {1}:
        return replace(trend, bound="at_least", low=math.exp(growth))
    if pulls:
        return replace(trend, bound="not_determined", note="runs that did not reach the target pull to both sides")
    df = len(points) - design.shape[1]
    if df < 1:
        return replace(trend, growth=math.exp(growth), note="no interval: one seed")
    residual = values - design @ (np.linalg.pinv(design) @ values)
    error = math.sqrt(float(residual @ residual) / df * float(weights @ weights))
    estimate = t_estimate(np.asarray(growth), np.asarray(error), np.asarray(float(df)))
    if max(-estimate.low, estimate.high) > LARGEST_LOG:
        return replace(trend, growth=math.exp(growth), note="no interval: it is wider than numbers reach")
    low, high = math.exp(float(estimate.low)), math.exp(float(estimate.high))
    return replace(trend, growth=math.exp(growth), low=low, high=high, p_value=float(estimate.p_value))
