"""Curves with fewer points, for drawing only. No number is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ablate.analysis.curve_columns import Floats
from ablate.analysis.results import Results
from ablate.analysis.run_curve import RunCurve
from ablate.metrics import LOSS, Metric

MIN_POINTS, MAX_POINTS, ALL_POINTS = 20, 160, 12_000
"""Points per drawn curve, about one per four pixels, and the limit for all curves of a page, one per run."""

MAX_DIAGNOSTIC_POINTS, ALL_DIAGNOSTIC_POINTS, MAX_LAYERS = 60, 6_000, 8
"""The same for diagnostics, which are many and smooth, and the number of layers that are drawn."""


@dataclass(frozen=True)
class DrawnCurve:
    """The curves of an arm for drawing: `costs` per axis [point], and `values` [run, point] with the `seeds` [run].

    `state` is empty for an arm's complete runs. For a single run that is not complete, it says why.
    """

    arm: str
    state: str
    costs: dict[str, Floats]
    values: Floats
    seeds: tuple[int, ...]

    @property
    def mean(self) -> Floats:
        """The mean over runs [point]."""
        mean: Floats = self.values.mean(axis=0)
        return mean


def thin_curves(results: Results, column: str, axes: Sequence[str]) -> list[DrawnCurve]:
    """One entry per arm with its complete runs, and one per run that diverged or is not complete."""
    lines = []
    limit = max(min(MAX_POINTS, ALL_POINTS // max(len(results.runs), 1)), MIN_POINTS)
    for arm in results.arms:
        runs = [run for run in results.runs_of(arm) if np.isfinite(run.columns.get(column, np.empty(0))).any()]
        whole = [run for run in runs if run.is_whole]
        if whole:
            lines.append(_draw(whole, column, axes, "", limit))
        others = [run for run in runs if not run.is_whole]
        lines += [_draw([run], column, axes, f"seed {run.seed}: {run.state}", limit) for run in others]
    return lines


def find_loss_range(lines: Sequence[DrawnCurve], metric: Metric = LOSS) -> tuple[float, float] | None:
    """The range of a linear axis if a few curves, such as diverged runs, would flatten all the others.

    The worse end is twice as far as the median of the complete curves' worst values, from zero for a positive loss,
    otherwise from the best value of all. None if no curve exceeds it.
    """
    known = [(metric.orient(mean), line.state) for line in lines if (mean := line.mean[np.isfinite(line.mean)]).size]
    whole = [mean for mean, state in known if not state] or [mean for mean, _ in known]
    worst = sorted(float(mean.max()) for mean in whole)
    best = min((float(mean.min()) for mean, _ in known), default=0.0)
    highest = max((float(mean.max()) for mean, _ in known), default=0.0)
    zero = 0.0 if metric.direction == "lower" and best >= 0 else best
    if not worst or highest <= (limit := zero + 2 * (worst[(len(worst) - 1) // 2] - zero)):
        return None
    bounds: tuple[float, float] = metric.orient_interval(best - _MARGIN * (limit - best), limit)
    return bounds


_MARGIN = 0.05
"""The free share of a figure's height beyond the best curve."""


@dataclass(frozen=True)
class Diagnostic:
    """A quantity that a variant records, averaged over seeds: `costs` per axis and `layers` by name, each [point]."""

    arm: str
    costs: dict[str, Floats]
    layers: dict[str, Floats]


def thin_diagnostics(results: Results, axes: Sequence[str]) -> dict[str, list[Diagnostic]]:
    """The curves of each diagnostic by its name, such as `alpha_attn` (with layers) or `grad_norm` (without).

    A deep model shows at most `MAX_LAYERS` layers, evenly spread.
    """
    groups: dict[str, list[Diagnostic]] = {}
    limit = max(min(MAX_DIAGNOSTIC_POINTS, ALL_DIAGNOSTIC_POINTS // len(results.arms)), MIN_POINTS)
    for arm in results.arms:
        runs = [run for run in results.runs_of(arm) if run.is_whole]
        members: dict[str, list[str]] = {}
        for column in dict.fromkeys(name for run in runs for name in ("grad_norm", *run.diagnostics)):
            members.setdefault(column.partition("/")[0], []).append(column)
        for group, columns in members.items():
            lines = {column: _draw_known(runs, column, axes, limit) for column in _pick_layers(columns)}
            known = [(column.partition("/")[2], line) for column, line in lines.items() if line is not None]
            if known:
                costs, length = known[0][1].costs, known[0][1].mean.size
                layers = {layer: line.mean for layer, line in known if line.mean.size == length}
                groups.setdefault(group, []).append(Diagnostic(arm, costs, layers))
    return groups


def _pick_layers(columns: Sequence[str]) -> list[str]:
    indices = np.linspace(0, len(columns) - 1, MAX_LAYERS).round().astype(np.int64)
    return [columns[index] for index in np.unique(indices)]


def _draw_known(runs: Sequence[RunCurve], column: str, axes: Sequence[str], limit: int) -> DrawnCurve | None:
    known = [run for run in runs if np.isfinite(run.columns.get(column, np.empty(0))).any()]
    return _draw(known, column, axes, "", limit) if known else None


def _draw(runs: Sequence[RunCurve], column: str, axes: Sequence[str], state: str, limit: int) -> DrawnCurve:
    known = [np.isfinite(run.columns[column]) for run in runs]
    steps = [run.columns["step"][mask] for run, mask in zip(runs, known, strict=True)]
    first, last = max(s[0] for s in steps), min(s[-1] for s in steps)
    grid = min(steps, key=len)
    grid = thin_points(grid[(grid >= first) & (grid <= last)], limit)
    values = np.stack(
        [np.interp(grid, s, run.columns[column][m]) for run, s, m in zip(runs, steps, known, strict=True)]
    )
    costs = {
        axis: np.mean(
            [np.interp(grid, s, run.cost(axis)[m]) for run, s, m in zip(runs, steps, known, strict=True)], axis=0
        )
        for axis in axes
    }
    return DrawnCurve(runs[0].arm, state, costs, values, tuple(run.seed for run in runs))


def thin_points(points: Floats, limit: int) -> Floats:
    """At most `limit` points, half of them spread linearly and half logarithmically, so that both scales look dense."""
    if points.size <= limit:
        return points
    half = limit // 2
    even = np.linspace(0, points.size - 1, half)
    early = np.geomspace(1, points.size, half) - 1
    return points[np.unique(np.concatenate([even, early]).round().astype(np.int64))]
