"""Growth of a speedup along a numeric axis of `compare_within`, such as the context length.

Each seed and level gives one point, the log speedup. A straight line in the logarithm of the level, with the seed as a
block, gives the growth from the first level to the last. With two levels, this is Student's t on the paired
differences. With more levels, deviations from the line count as noise, so the interval is wide rather than wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ablate.analysis.comparison import compare, find_obstacle
from ablate.analysis.convergence import Reach
from ablate.analysis.curve_columns import Floats
from ablate.analysis.intervals import Estimate, t_estimate
from ablate.analysis.results import Results
from ablate.analysis.speedup import LARGEST_LOG, Bound
from ablate.tracking.study_record import ArmRecord
from ablate.tracking.values import Value, is_number

NEGLIGIBLE = 1e-9
"""A point with less weight does not count in the growth. Rounding leaves about 1e-16, a real share at least 1e-2."""


_AT_BOTH_ENDS = "not every run reached the target, so the speedups are known only up to a limit"


@dataclass(frozen=True)
class Trend:
    """Change of the speedup to the baseline's final loss along the axis `along`, from `first` to `last` of `levels`.

    `family` holds the arm's levels on its other axes. `growth` is the speedup at the last level divided by that at the
    first, on the cost `axis`. `low`, `high` and `p_value` mean the same as for a speedup and are null below two seeds.
    If runs were censored and all of them pull to one side, `growth` is null and `bound` says which of `low` and `high`
    is the limit. The limit is itself computed from noisy numbers, so `p_value` tests whether it is 1.
    `n_points` counts the pairs of runs. `note` says why there is no number, or no interval. `loss_change`, with its
    interval, is the change of the difference in final loss, arm minus baseline, over these levels. It is in the unit of
    the study's metric, nats per token for a loss.
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
    loss_change: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None

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
    """One pair of runs. `value` is its log speedup, or its difference of losses.

    `side` says where the truth lies if the pair is censored: -1 for at most this value, 1 for at least.
    """

    seed: int
    level: float
    value: float
    side: int = 0


def find_trends(results: Results) -> tuple[Trend, ...]:
    """Compute a row per axis of cost and family of arms that differ only in one numeric axis of `compare_within`."""
    return tuple(
        _fit(results, replace(trend, axis=axis))
        for along in results.record.compare_within
        for trend in [_compare_losses(results, family) for family in _list_families(results, along)]
        for axis in results.cost_axes
    )


def _list_families(results: Results, along: str) -> Iterator[Trend]:
    families: dict[tuple[tuple[str, Value], ...], list[ArmRecord]] = {}
    for name in results.compared_arms:
        arm = results.arms[name]
        others = tuple((axis, level) for axis, level in arm.axes.items() if axis != along)
        families.setdefault(others, []).append(arm)
    for family, arms in families.items():
        by_level = {arm.axes[along]: arm.arm for arm in arms if along in arm.axes and _is_level(arm.axes[along])}
        if len(by_level) == len(arms) > 1:
            levels = tuple(sorted(by_level))
            yield Trend(dict(family), along, levels, "", tuple(by_level[level] for level in levels))


def _is_level(level: Value) -> bool:
    return is_number(level) and bool(level > 0)


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
    if not all(math.isfinite(point.value) for point in points):
        return replace(trend, note=f"{trend.axis}: not recorded, or nothing was spent before the target was reached")
    return _estimate(replace(trend, n_points=len(points)), points)


def _read_points(baseline: Sequence[Reach], arm: Sequence[Reach], level: float, axis: str) -> Iterator[_Point]:
    for base, mine in zip(baseline, arm, strict=True):
        costs = base.cost(axis), mine.cost(axis)
        log_ratio = math.log(costs[0] / costs[1]) if min(costs) > 0 else math.nan
        yield _Point(mine.run.seed, level, log_ratio, {"reached": 0, "never": -1, "before": 1}[mine.side])


def _compare_losses(results: Results, trend: Trend) -> Trend:
    """Add the change in the difference of final losses, which is known even if a speedup is not."""
    points = []
    for arm, level in zip(trend.arms, trend.levels, strict=True):
        base = {run.seed: run.final_loss for run in results.runs_of(results.baseline_of(arm))}
        gaps = [(run.seed, run.final_loss - base[run.seed]) for run in results.runs_of(arm) if run.seed in base]
        points += [_Point(seed, level, gap) for seed, gap in gaps if math.isfinite(gap)]
    line = _draw_line(trend, points)
    if line is None or line.estimate is None:
        return trend if line is None else replace(trend, loss_change=line.change)
    low, high = float(line.estimate.low), float(line.estimate.high)
    return replace(trend, loss_change=line.change, loss_low=low, loss_high=high)


@dataclass(frozen=True)
class _Line:
    """The `change` from the first level to the last, its interval, and the `weights` of the points in it.

    `estimate` is None below two seeds.
    """

    weights: Floats
    change: float
    estimate: Estimate | None


def _draw_line(trend: Trend, points: Sequence[_Point]) -> _Line | None:
    """Fit the line. None if no seed has points at two levels."""
    if not points:
        return None
    seeds = list(dict.fromkeys(point.seed for point in points))
    span = math.log(trend.last) - math.log(trend.first)
    slope = np.array([(math.log(point.level) - math.log(trend.first)) / span for point in points])
    blocks = np.array([[point.seed == seed for seed in seeds] for point in points], np.float64)
    design, values = np.column_stack([slope, blocks]), np.array([point.value for point in points], np.float64)
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    inverse = np.linalg.pinv(design)
    weights, df = inverse[0], len(points) - design.shape[1]
    change = np.asarray(weights @ values)
    if df < 1:
        return _Line(weights, float(change), None)
    residual = values - design @ (inverse @ values)
    error = np.sqrt(residual @ residual / df * (weights @ weights))
    return _Line(weights, float(change), t_estimate(change, error, np.asarray(float(df))))


def _estimate(trend: Trend, points: Sequence[_Point]) -> Trend:
    line = _draw_line(trend, points)
    if line is None:
        return replace(trend, note="no seed has runs at two levels")
    idle = [point.side != 0 and abs(weight) < NEGLIGIBLE for point, weight in zip(points, line.weights, strict=True)]
    if any(idle):  # censored values on which the growth does not depend say nothing about the noise
        kept = [point for point, is_idle in zip(points, idle, strict=True) if not is_idle]
        return _estimate(replace(trend, n_points=len(kept)), kept)
    growth = math.exp(line.change)
    p_value = None if line.estimate is None else float(line.estimate.p_value)
    pulls = {int(np.sign(weight)) * point.side for weight, point in zip(line.weights, points, strict=True)} - {0}
    if pulls == {-1}:
        return replace(trend, bound="at_most", high=growth, p_value=p_value)
    if pulls == {1}:
        return replace(trend, bound="at_least", low=growth, p_value=p_value)
    if pulls:
        return replace(trend, bound="not_determined", note=_AT_BOTH_ENDS)
    if line.estimate is None:
        return replace(trend, growth=growth, note="no interval: one seed")
    low, high = float(line.estimate.low), float(line.estimate.high)
    if max(-low, high) > LARGEST_LOG:
        return replace(trend, growth=growth, note="no interval: it is wider than numbers reach")
    return replace(trend, growth=growth, low=math.exp(low), high=math.exp(high), p_value=p_value)
