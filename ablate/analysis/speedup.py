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
    record, rows = results.arms[arm], []
    plateau = _describe_plateau(comparison) if isinstance(target, str) else ""
    for axis in results.cost_axes:
        notes = list(comparison.notes)
        found = _find_numbers(axis, comparison, plateau, notes)
        rows.append(SpeedUp(arm, record.baseline, dict(record.within), axis, target, **found, note="; ".join(notes)))
    return rows


def adjust(rows: Iterable[SpeedUp]) -> tuple[SpeedUp, ...]:
    """Adjust p-values over the arms that share baseline, axis and target."""
    return adjust_p_values(rows, lambda row: (row.baseline, row.axis, row.target))


def _describe_plateau(comparison: Comparison) -> str:
    """Say that the baseline had its target's loss long before, if so."""
    share = first_crossing(comparison.baseline)
    if share is None or share >= HALF:
        return ""
    return f"the baseline had that value after {100 * share:.0f} % of the cost and ended no better"


def _find_numbers(axis: str, comparison: Comparison, plateau: str, notes: list[str]) -> dict[str, Any]:
    """Compute the numbers of one row and append to its notes. With a `plateau`, a note on the baseline, it has none."""
    if not comparison.arm:
        return {"bound": "not_determined"}
    if not _metric_of(comparison).has_curve:
        notes.append("the metric has one value per run, so no cost reaches it")
        return {"bound": "not_determined"}
    ways = ((comparison.baseline, 1), (comparison.arm, -1))
    signs = {sign if r.side == "never" else -sign for reaches, sign in ways for r in reaches if r.side != "reached"}
    n_reached = sum(reach.side != "never" for reach in comparison.arm)
    known = {"target_loss": comparison.target_loss, "n_pairs": len(comparison.arm), "n_reached": n_reached}
    if plateau:
        notes.append(plateau)
        return {**known, "bound": "not_determined"}
    factors = (1.0, 1.0)
    if obstacle := find_obstacle(comparison, axis):
        if axis != "seconds" or comparison.measured_step_s is None:
            notes.append(obstacle)
            return known
        axis, factors = "steps", comparison.measured_step_s
        notes.append(
            "seconds: steps times the measured time per step, because the runs' clock times cannot be compared"
        )
    base = _log_costs(comparison.baseline, axis) + math.log(factors[0])
    mine = _log_costs(comparison.arm, axis) + math.log(factors[1])
    if not (np.isfinite(base).all() and np.isfinite(mine).all()):
        reasons = (reach.run.why_no_cost(axis) for reach in (*comparison.baseline, *comparison.arm))
        why = next(filter(None, reasons), "not recorded, or nothing was spent before the target was reached")
        notes.append(f"{axis}: {why}")
        return known
    ratio = math.exp(base.mean() - mine.mean())
    if signs == {-1}:
        tested = _test_losses("at_most", comparison, base, mine, axis, factors)
        return {**known, "bound": "at_most", "high": ratio, **tested}
    if signs == {1}:
        tested = _test_losses("at_least", comparison, base, mine, axis, factors)
        return {**known, "bound": "at_least", "low": ratio, **tested}
    if signs:
        is_early = any(reach.side == "before" for reaches, _ in ways for reach in reaches)
        beyond = f"some runs are {_metric_of(comparison).side} the target at their first evaluation"
        notes.append(beyond if is_early else _ON_EITHER_SIDE)
        return {**known, "bound": "not_determined"}
    return {**known, "ratio": ratio, **_find_interval(comparison, base, mine, axis, notes)}


def _find_interval(comparison: Comparison, base: Floats, mine: Floats, axis: str, notes: list[str]) -> dict[str, Any]:
    if comparison.is_paired:
        if len(mine) < 2:
            notes.append("no interval: one seed")
            return {}
        return _list_estimate(paired_t(base - mine), _PAIRED, notes)
    if min(len(base), len(mine)) < 2:
        notes.append("no interval: the seeds do not match and one side has one run")
        return {}
    if comparison.shifted:
        if any(reach.side != "reached" for reaches in comparison.shifted for reach in reaches):
            notes.append("no interval: the arm does not reach every baseline run's own loss")
            return {}
        shift = np.array([_log_costs(reaches, axis).mean() for reaches in comparison.shifted])
        base = base - (shift - shift.mean())
    notes.append(_UNPAIRED)
    return _list_estimate(welch_t(base, mine), _WELCH, notes)


def _test_losses(
    bound: Bound, comparison: Comparison, base: Floats, mine: Floats, axis: str, factors: tuple[float, float]
) -> dict[str, Any]:
    """The p-value of equal losses at equal cost for a bound, if the difference has the sign that the bound says.

    The cost, whose logarithm is in `base` and `mine`, is that of the cheaper run of a pair, so both runs have been
    there. If the seeds do not match, it is the lowest of all runs.
    """
    if min(len(base), len(mine)) < 2:
        return {}
    at = np.minimum(base, mine) if comparison.is_paired else np.full(1, min(base.min(), mine.min()))
    sides = zip((comparison.baseline, comparison.arm), factors, strict=True)
    base_loss, loss = (_losses_at(reaches, axis, at - math.log(factor)) for reaches, factor in sides)
    if not (np.isfinite(base_loss).all() and np.isfinite(loss).all()):
        return {}
    estimate = paired_t(loss - base_loss) if comparison.is_paired else welch_t(loss, base_loss)
    metric = _metric_of(comparison)
    if metric.is_better(0.0, float(estimate.mean)) != (bound == "at_most"):
        return {}
    what = metric.name if metric.short == metric.name else f"the {metric.short}"
    method = f"{'paired' if comparison.is_paired else 'Welch'} t on {what} at the same cost"
    return {"p_value": float(estimate.p_value), "method": method}


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


def _list_estimate(estimate: Estimate, method: str, notes: list[str]) -> dict[str, Any]:
    if max(-estimate.low, estimate.high) > LARGEST_LOG:
        notes.append("no interval: it is wider than numbers reach")
        return {}
    ratio, low, high = (math.exp(value) for value in (estimate.mean, estimate.low, estimate.high))
    return {"ratio": ratio, "low": low, "high": high, "p_value": float(estimate.p_value), "method": method}


def _log_costs(reaches: Sequence[Reach], axis: str) -> Floats:
    costs = np.array([reach.cost(axis) for reach in reaches], np.float64)
    return np.log(costs, out=np.full_like(costs, np.nan), where=costs > 0)
