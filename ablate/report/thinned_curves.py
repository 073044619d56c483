"""Curves thinned for drawing only: what the page and the pictures show. No number is ever computed from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ablate.analysis.curve_columns import Floats
from ablate.analysis.results import Results, RunCurve

MIN_POINTS, MAX_POINTS, ALL_POINTS = 20, 240, 24_000
"""Points of a drawn curve: about one a pixel pair of the figure, of all curves together at most the last."""

MAX_DIAGNOSTIC_POINTS, ALL_DIAGNOSTIC_POINTS, MAX_LAYERS = 60, 6_000, 8
"""The same for a diagnostic, and its layers that are drawn: there are many, and each is smooth."""


@dataclass(frozen=True)
class DrawnCurve:
    """A curve: `costs` by axis and `mean` [point], with the band `low` to `high` (the extremes over `n_runs` seeds).

    `state` is empty for the whole runs of an arm, else what became of the single run that is drawn.
    """

    arm: str
    state: str
    costs: dict[str, Floats]
    mean: Floats
    low: Floats
    high: Floats
    n_runs: int


def thin_curves(results: Results, column: str, axes: Sequence[str]) -> list[DrawnCurve]:
    """One line an arm over its whole runs; one more for each run that diverged, was cut, or still runs."""
    lines = []
    limit = max(min(MAX_POINTS, ALL_POINTS // len(results.arms)), MIN_POINTS)
    for arm in results.arms:
        runs = [run for run in results.runs_of(arm) if np.isfinite(run.columns.get(column, np.empty(0))).any()]
        whole = [run for run in runs if run.is_whole]
        if whole:
            lines.append(_draw(whole, column, axes, "", limit))
        others = [run for run in runs if not run.is_whole]
        lines += [_draw([run], column, axes, f"seed {run.seed}: {run.state}", limit) for run in others]
    return lines


def find_loss_range(lines: Sequence[DrawnCurve]) -> tuple[float, float] | None:
    """Ends of a linear axis of losses where a few lines, as of runs that diverged, would flatten all the others.

    The upper end is twice the median of the highest loss of each line. None where no line goes beyond it.
    """
    known = [mean for line in lines if (mean := line.mean[np.isfinite(line.mean)]).size]
    highest = sorted(float(mean.max()) for mean in known)
    if not highest or highest[-1] <= (high := 2 * highest[(len(highest) - 1) // 2]):
        return None
    low = min(float(mean.min()) for mean in known)
    return low - _MARGIN * (high - low), high


_MARGIN = 0.05
"""Share of a figure's height that stays free below the lowest line."""


@dataclass(frozen=True)
class Diagnostic:
    """A variant's own quantity over training, mean over seeds: `costs` by axis [point], `layers` by name [point]."""

    arm: str
    costs: dict[str, Floats]
    layers: dict[str, Floats]


def thin_diagnostics(results: Results, axes: Sequence[str]) -> dict[str, list[Diagnostic]]:
    """By name, such as `alpha_attn` with its layers or `grad_norm` without: a curve for each arm that records it.

    Of a deep model at most `MAX_LAYERS` layers, evenly spread.
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
    return DrawnCurve(runs[0].arm, state, costs, values.mean(axis=0), values.min(axis=0), values.max(axis=0), len(runs))


def thin_points(points: Floats, limit: int) -> Floats:
    """At most `limit` of the points, half spread evenly and half evenly in the logarithm: either scale is filled."""
    if points.size <= limit:
        return points
    half = limit // 2
    even = np.linspace(0, points.size - 1, half)
    early = np.geomspace(1, points.size, half) - 1
    return points[np.unique(np.concatenate([even, early]).round().astype(np.int64))]
