"""Speedup of an arm: the cost at which its baseline reaches a loss, divided by the cost at which the arm does.

The ratio is a geometric mean over pairs of runs, which `comparison` finds.

A run that never reaches the target is censored where it ended. A run that is below the target at its first evaluation
is censored there. With censored runs there is no ratio. If all of them pull to one side, the geometric mean that takes
the censored costs for the unknown ones is a limit: `bound` is "at_most" (the limit is `high`) or "at_least" (it is
`low`). Otherwise `bound` is "not_determined", as it is for a baseline whose curve is flat or gets worse. Nothing is
imputed.

The words "loss" and "below" hold for a metric of which lower is better. For others they mean "value" and "above".

A bound is not a test: in one study of eight, all three runs of an arm that is no worse than its baseline miss its final
loss. The p-value of a bound therefore compares the losses at equal cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ablate.analysis.comparison import TARGETS, Comparison, Target, compare, find_obstacle, first_crossing
from ablate.analysis.convergence import HOLD, Reach
from ablate.analysis.curve_columns import Floats
from ablate.analysis.intervals import ROUNDING, Estimate, adjust_p_values, paired_t, welch_t
from ablate.analysis.results import Results
from ablate.metrics import Metric
from ablate.tracking.values import Value

Bound = Literal["at_most", "at_least", "not_determined"]

HALF = 0.5
"""A baseline that had its target's loss before this share of the target's cost has no speedups over it there. The rest
of the cost would count as a gain of every arm, even of the baseline against itself."""

LARGEST_LOG = 700.0  # of a ratio: exp(700) and exp(-700) fit into float64
_PAIRED, _WELCH = "paired t on the log ratio", "Welch t on the log cost (conservative: the seeds do not match)"
_UNPAIRED = "the seeds do not match, so the interval is conservative"
_ON_EITHER_SIDE = "not every run reached the target, on either side"


@dataclass(frozen=True)
class SpeedUp:
    """One comparison. With a `ratio` above 1 the arm needs less of `axis` (steps, tokens, FLOPs, s, GPU s).

    `low` and `high` are the ends of the 95 % interval, null for one seed. If `bound` is set, `ratio` is null (see the
    module). `target_loss` is the mean of the pairs' targets, which are values of the study's metric. `n_pairs` counts
    the pairs (the arm's runs if the seeds do not match), and `n_reached` the arm's runs that reached the target.

    `p_value` tests a ratio of 1. For a bound, it tests that the losses are equal at the cost that the cheaper run of a
    pair had spent; it is null if the losses do not support the bound. `p_holm` is adjusted for the arms that share
    baseline, axis and target. If nothing can be compared, all numbers are null and `note` says why.
    """

    arm: str
    baseline: str
    within: Mapping[str, Value]
    axis: str
    target: Target
    target_loss: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    bound: Bound | None = None
    n_pairs: int = 0
    n_reached: int = 0
    p_value: float | None = None
    p_holm: float | None = None
    method: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return vars(self) | {"within": dict(self.within)}


def speed_ups(
    results: Results,
    targets: Sequence[Target] = TARGETS,
    hold: int = HOLD,
    measured_step_s: Mapping[str, float] | None = None,
) -> tuple[SpeedUp, ...]:
    """Compare every arm with its baseline at every target on every axis. GPU-seconds need a GPU in every run.

    `measured_step_s` holds the seconds per step of arms, as a benchmark measured them. If the clock times of the runs
    cannot be compared, seconds are these times the steps, and the note says so.
    """
    known = measured_step_s or {}
    rows = []
    for arm in results.compared_arms:
        base = results.baseline_of(arm)
        measured = (known[base], known[arm]) if {base, arm} <= known.keys() else None
        for target in targets:
            comparison = replace(compare(results, arm, target, hold), measured_step_s=measured)
            rows += make_rows(results, arm, target, comparison)
    return adjust(rows)


def make_rows(results: Results, arm: str, target: Target, comparison: Comparison) -> list[SpeedUp]:
    """Compute one row per axis of cost from a comparison."""
    record = results.arms[arm]
    head = SpeedUp(arm, record.baseline, dict(record.within), "", target, note="; ".join(comparison.notes))
    plateau = _describe_plateau(comparison) if isinstance(target, str) else ""
    return [_fill(replace(head, axis=axis), comparison, plateau) for axis in results.cost_axes]


def adjust(rows: Iterable[SpeedUp]) -> tuple[SpeedUp, ...]:
    """Adjust p-values over the arms that share baseline, axis and target."""
    return adjust_p_values(rows, lambda row: (row.baseline, row.axis, row.target))


def _describe_plateau(comparison: Comparison) -> str:
    """Say that the baseline had its target's loss long before, if so."""
    share = first_crossing(comparison.baseline)
    if share is None or share >= HALF:
        return ""
    return f"the baseline had that value after {100 * share:.0f} % of the cost and ended no better"


def _fill(row: SpeedUp, comparison: Comparison, plateau: str) -> SpeedUp:
    """Compute the numbers of one row. With a `plateau`, a note on the baseline, there are none."""
    if not comparison.arm:
        return replace(row, bound="not_determined")
    if not _metric_of(comparison).has_curve:
        return _annotate(
            replace(row, bound="not_determined"), "the metric has one value per run, so no cost reaches it"
        )
    ways = ((comparison.baseline, 1), (comparison.arm, -1))
    signs = {sign if r.side == "never" else -sign for reaches, sign in ways for r in reaches if r.side != "reached"}
    n_reached = sum(reach.side != "never" for reach in comparison.arm)
    row = replace(row, target_loss=comparison.target_loss, n_pairs=len(comparison.arm), n_reached=n_reached)
    if plateau:
        return _annotate(replace(row, bound="not_determined"), plateau)
    axis, factors = row.axis, (1.0, 1.0)
    if obstacle := find_obstacle(comparison, axis):
        if axis != "seconds" or comparison.measured_step_s is None:
            return _annotate(row, obstacle)
        axis, factors = "steps", comparison.measured_step_s
        row = _annotate(
            row, "seconds: steps times the measured time per step, because the runs' clock times cannot be compared"
        )
    base = _log_costs(comparison.baseline, axis) + math.log(factors[0])
    mine = _log_costs(comparison.arm, axis) + math.log(factors[1])
    if not (np.isfinite(base).all() and np.isfinite(mine).all()):
        reasons = (reach.run.why_no_cost(axis) for reach in (*comparison.baseline, *comparison.arm))
        why = next(filter(None, reasons), "not recorded, or nothing was spent before the target was reached")
        return _annotate(row, f"{axis}: {why}")
    ratio = math.exp(base.mean() - mine.mean())
    if signs == {-1}:
        return _test_losses(replace(row, bound="at_most", high=ratio), comparison, base, mine, axis, factors)
    if signs == {1}:
        return _test_losses(replace(row, bound="at_least", low=ratio), comparison, base, mine, axis, factors)
    if signs:
        is_early = any(reach.side == "before" for reaches, _ in ways for reach in reaches)
        beyond = f"some runs are {_metric_of(comparison).side} the target at their first evaluation"
        reason = beyond if is_early else _ON_EITHER_SIDE
        return _annotate(replace(row, bound="not_determined"), reason)
    return _add_interval(replace(row, ratio=ratio), comparison, base, mine, axis)


def _add_interval(row: SpeedUp, comparison: Comparison, base: Floats, mine: Floats, axis: str) -> SpeedUp:
    if comparison.is_paired:
        if len(mine) < 2:
            return _annotate(row, "no interval: one seed")
        return _with_estimate(row, paired_t(base - mine), _PAIRED)
    if min(len(base), len(mine)) < 2:
        return _annotate(row, "no interval: the seeds do not match and one side has one run")
    if comparison.shifted:
        if any(reach.side != "reached" for reaches in comparison.shifted for reach in reaches):
            return _annotate(row, "no interval: the arm does not reach every baseline run's own loss")
        shift = np.array([_log_costs(reaches, axis).mean() for reaches in comparison.shifted])
        base = base - (shift - shift.mean())
    return _with_estimate(_annotate(row, _UNPAIRED), welch_t(base, mine), _WELCH)


def _test_losses(
    row: SpeedUp, comparison: Comparison, base: Floats, mine: Floats, axis: str, factors: tuple[float, float]
) -> SpeedUp:
    """Add the p-value of equal losses at equal cost to a bound, if the difference has the sign that the bound says.

    The cost, whose logarithm is in `base` and `mine`, is that of the cheaper run of a pair, so both runs have been
    there. If the seeds do not match, it is the lowest of all runs.
    """
    if min(len(base), len(mine)) < 2:
        return row
    at = np.minimum(base, mine) if comparison.is_paired else np.full(1, min(base.min(), mine.min()))
    sides = zip((comparison.baseline, comparison.arm), factors, strict=True)
    base_loss, loss = (_losses_at(reaches, axis, at - math.log(factor)) for reaches, factor in sides)
    if not (np.isfinite(base_loss).all() and np.isfinite(loss).all()):
        return row
    estimate = paired_t(loss - base_loss) if comparison.is_paired else welch_t(loss, base_loss)
    metric = _metric_of(comparison)
    if metric.is_better(0.0, float(estimate.mean)) != (row.bound == "at_most"):
        return row
    what = metric.name if metric.short == metric.name else f"the {metric.short}"
    method = f"{'paired' if comparison.is_paired else 'Welch'} t on {what} at the same cost"
    return replace(row, p_value=float(estimate.p_value), method=method)


def _metric_of(comparison: Comparison) -> Metric:
    return comparison.arm[0].run.metric


def _losses_at(reaches: Sequence[Reach], axis: str, log_cost_n: Floats) -> Floats:
    """The value of the metric of each run at its log cost, or at a common one; nan outside of its evaluations."""
    losses = []
    for reach, at in zip(reaches, np.broadcast_to(log_cost_n, len(reaches)), strict=True):
        cost, loss = reach.run.cost_of_evaluations(axis), reach.run.evaluation_loss
        known = np.log(cost[cost > 0])
        is_there = known.size and known[0] - ROUNDING <= at <= known[-1] + ROUNDING
        losses.append(float(np.interp(at, known, loss[cost > 0])) if is_there else math.nan)
    return np.array(losses, np.float64)


def _with_estimate(row: SpeedUp, estimate: Estimate, method: str) -> SpeedUp:
    if max(-estimate.low, estimate.high) > LARGEST_LOG:
        return _annotate(row, "no interval: it is wider than numbers reach")
    ratio, low, high = (math.exp(value) for value in (estimate.mean, estimate.low, estimate.high))
    return replace(row, ratio=ratio, low=low, high=high, p_value=float(estimate.p_value), method=method)


def _log_costs(reaches: Sequence[Reach], axis: str) -> Floats:
    costs = np.array([reach.cost(axis) for reach in reaches], np.float64)
    return np.log(costs, out=np.full_like(costs, np.nan), where=costs > 0)


def _annotate(row: SpeedUp, note: str) -> SpeedUp:
    return replace(row, note=f"{row.note}; {note}" if row.note else note)
