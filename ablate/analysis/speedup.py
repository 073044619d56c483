"""Speed-up of an arm: the cost at which its baseline reaches a loss over the cost at which the arm does.

Targets are paired. For each seed, the target is the baseline's own evaluation loss at 50, 75, 90 or 100 % ("final") of
its budget, and the arm with the same seed is compared with exactly that share of the baseline's cost. Where fewer than
two seeds match although both sides have two, the target is the baseline's mean loss at that share. An absolute target
is a crossing for both. The ratio is a geometric mean over pairs.

A run that never reaches the target is censored where it ended; one that is below it at its first evaluation, there.
Where a run is censored there is no ratio: `bound` is "at_most" (the value in `high`) or "at_least" (in `low`), the
geometric mean with the censored costs in place of the unknown ones, where all censoring pulls to one side; else
"not_determined". Nothing is imputed. A bound is no test: three runs of an arm that is no worse than its baseline all
miss its final loss in one study of eight. Its p-value is of the losses at the same cost instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ablate.analysis.convergence import HOLD, Reach, find_share, loss_at, reach_loss
from ablate.analysis.curve_columns import Floats
from ablate.analysis.intervals import ROUNDING, Estimate, holm, paired_t, welch_t
from ablate.analysis.results import Results, RunCurve, device_of
from ablate.errors import AblateError, suggest
from ablate.tracking.study_record import ENDED, Value

Target = str | float
Bound = Literal["at_most", "at_least", "not_determined"]

_SHARES = {"50": 0.5, "75": 0.75, "90": 0.9, "final": 1.0}
TARGETS: tuple[Target, ...] = tuple(_SHARES)

LARGEST_LOG = 700.0  # of a ratio: its exponential, and that of its negative, are float64
_PAIRED, _WELCH = "paired t on the log ratio", "Welch t on the log cost (conservative: the seeds do not match)"
_PAIRED_LOSS, _WELCH_LOSS = (f"{how} t on the loss at the same cost" for how in ("paired", "Welch"))
_UNPAIRED = "the seeds do not match, so the interval is conservative"
_ON_EITHER_SIDE = "not every run reached the target, on either side"


@dataclass(frozen=True)
class SpeedUp:
    """One comparison. `ratio` above 1: the arm needs less of `axis` (steps, tokens, FLOPs, s, GPU s) than the baseline.

    `low` and `high` are the ends of the 95 % interval, null for one seed. Where `bound` is set, `ratio` is null (see
    the module). `target_loss` is the mean of the pairs' targets (nats a token). `n_pairs` counts the pairs compared
    (the arm's runs where seeds do not match), `n_reached` the arm's runs among them that reached the target. `p_value`
    tests a ratio of 1; of a bound, that the losses are the same at the cost that the cheaper run of a pair had spent,
    null where they do not bear the bound out. `p_holm` is adjusted for the arms that share baseline, axis and target.
    All are null, and `note` says why, where nothing can be compared.
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


@dataclass(frozen=True)
class Comparison:
    """An arm and its baseline at one target: who reached it where.

    Paired: `baseline[i]` and `arm[i]` share a seed. Else `shifted[j][i]` is arm run i at the own target of baseline run
    j: it carries the noise of the baseline's loss over to the axis of cost.
    """

    baseline: tuple[Reach, ...] = ()
    arm: tuple[Reach, ...] = ()
    target_loss: float | None = None
    is_paired: bool = True
    shifted: tuple[tuple[Reach, ...], ...] = ()
    notes: tuple[str, ...] = ()
    measured_step_s: tuple[float, float] | None = None  # of the baseline and the arm


def parse_target(text: str) -> Target:
    """A target as a person writes it: 50, 75, 90 or final, or a loss such as 3.28 (nats a token).

    Raises `AblateError` for anything else.
    """
    if text in _SHARES:
        return text
    try:
        loss = float(text)
    except ValueError:
        loss = math.nan
    if not math.isfinite(loss):
        raise AblateError(
            f"target {text!r}: neither a loss nor a share of the baseline's budget{suggest(text, TARGETS)}"
        )
    return loss


def speed_ups(
    results: Results,
    targets: Sequence[Target] = TARGETS,
    hold: int = HOLD,
    measured_step_s: Mapping[str, float] | None = None,
) -> tuple[SpeedUp, ...]:
    """Every arm against its baseline at every target on every axis; `gpu_seconds` only where every run held a GPU.

    `measured_step_s` gives the time a step (s) of arms as a benchmark measured it: where clock times of the runs cannot
    be compared, seconds are these times the steps, and the note says so.
    """
    known = measured_step_s or {}
    rows = []
    for arm in results.compared_arms:
        base = results.baseline_of(arm)
        measured = (known[base], known[arm]) if {base, arm} <= known.keys() else None
        for target in targets:
            comparison = replace(compare(results, arm, target, hold), measured_step_s=measured)
            rows += rows_of(results, arm, target, comparison)
    return adjust(rows)


def rows_of(results: Results, arm: str, target: Target, comparison: Comparison) -> list[SpeedUp]:
    """One row an axis for one comparison."""
    record = results.arms[arm]
    head = SpeedUp(arm, record.baseline, dict(record.within), "", target, note="; ".join(comparison.notes))
    return [_fill(replace(head, axis=axis), comparison) for axis in results.cost_axes]


def adjust(rows: Iterable[SpeedUp]) -> tuple[SpeedUp, ...]:
    """Holm over the arms that were compared with one baseline, on one axis, at one target."""
    listed = list(rows)
    families: dict[tuple[str, str, Target], list[int]] = {}
    for index, row in enumerate(listed):
        families.setdefault((row.baseline, row.axis, row.target), []).append(index)
    for members in families.values():
        for index, p_holm in zip(members, holm([listed[i].p_value for i in members]), strict=True):
            listed[index] = replace(listed[index], p_holm=p_holm)
    return tuple(listed)


def compare(results: Results, arm: str, target: Target, hold: int = HOLD) -> Comparison:
    """Pair an arm with its baseline at a target. Unfinished runs are left out, diverged ones and cut ones kept."""
    mine, base = results.ended_runs(arm), results.ended_runs(results.baseline_of(arm))
    notes = [*_note_exclusions(results, arm), *_note_early_ends(mine, "this arm")]
    if isinstance(target, str):
        left_out = [run for run in base if not run.is_whole]
        base = tuple(run for run in base if run.is_whole)
        notes += _note_early_ends(left_out, "the baseline")
    by_seed = {run.seed: run for run in base}
    pairs = [(by_seed[run.seed], run) for run in mine if run.seed in by_seed]
    is_paired = len(pairs) >= 2 or (bool(pairs) and min(len(mine), len(base)) < 2)
    if is_paired:
        mine, base = tuple(run for _, run in pairs), tuple(run for run, _ in pairs)
    if not mine or not base:
        notes.append("nothing to compare: no run of " + ("this arm" if not mine else "the baseline") + " counts")
        return Comparison(notes=tuple(notes))
    if isinstance(target, float):
        at_base, at_arm = (tuple(reach_loss(run, target, hold) for run in runs) for runs in (base, mine))
        return Comparison(at_base, at_arm, target, is_paired, notes=tuple(notes))
    return _compare_at_share(base, mine, target, is_paired, hold, notes)


def _compare_at_share(
    base: tuple[RunCurve, ...], mine: tuple[RunCurve, ...], target: str, is_paired: bool, hold: int, notes: list[str]
) -> Comparison:
    positions = [find_share(run.cost_of_evaluations("steps"), _SHARES[target]) for run in base]
    if any(position is None for position in positions):
        return Comparison(notes=(*notes, f"the baseline has no evaluation before {target} % of its budget"))
    at_base = tuple(Reach(run, "reached", position) for run, position in zip(base, positions, strict=True))
    losses = [loss_at(reach.run.evaluation_loss, reach.position) for reach in at_base if reach.position]
    mean = float(np.mean(losses))
    if is_paired:
        at_arm = tuple(reach_loss(run, loss, hold) for run, loss in zip(mine, losses, strict=True))
        return Comparison(at_base, at_arm, mean, notes=tuple(notes))
    shifted = tuple(tuple(reach_loss(run, loss, hold) for run in mine) for loss in losses)
    at_arm = tuple(reach_loss(run, mean, hold) for run in mine)
    return Comparison(at_base, at_arm, mean, False, shifted, tuple(notes))


def _fill(row: SpeedUp, comparison: Comparison) -> SpeedUp:
    """The numbers of one row from one comparison."""
    if not comparison.arm:
        return replace(row, bound="not_determined")
    ways = ((comparison.baseline, 1), (comparison.arm, -1))
    signs = {sign if r.side == "never" else -sign for reaches, sign in ways for r in reaches if r.side != "reached"}
    n_reached = sum(reach.side != "never" for reach in comparison.arm)
    row = replace(row, target_loss=comparison.target_loss, n_pairs=len(comparison.arm), n_reached=n_reached)
    axis, factors = row.axis, (1.0, 1.0)
    if obstacle := find_obstacle(comparison, axis):
        if axis != "seconds" or comparison.measured_step_s is None:
            return _annotate(row, obstacle)
        axis, factors = "steps", comparison.measured_step_s
        row = _annotate(
            row, "seconds: steps times the measured time a step, as the runs' clock times cannot be compared"
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
        reason = "some runs are below the target at their first evaluation" if is_early else _ON_EITHER_SIDE
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
    """A bound with the p-value of equal losses at the same cost, where the difference has the sign that it says.

    The cost (its logarithm in `base` and `mine`) is that of the run of a pair which spent less, so that both have been
    there; of all runs where seeds do not match.
    """
    if min(len(base), len(mine)) < 2:
        return row
    at = np.minimum(base, mine) if comparison.is_paired else np.full(1, min(base.min(), mine.min()))
    sides = zip((comparison.baseline, comparison.arm), factors, strict=True)
    base_loss, loss = (_losses_at(reaches, axis, at - math.log(factor)) for reaches, factor in sides)
    if not (np.isfinite(base_loss).all() and np.isfinite(loss).all()):
        return row
    estimate = paired_t(loss - base_loss) if comparison.is_paired else welch_t(loss, base_loss)
    if (estimate.mean > 0) != (row.bound == "at_most"):
        return row
    return replace(row, p_value=float(estimate.p_value), method=_PAIRED_LOSS if comparison.is_paired else _WELCH_LOSS)


def _losses_at(reaches: Sequence[Reach], axis: str, log_cost_n: Floats) -> Floats:
    """The loss of each run (nats a token) at its log cost, or at the one of all; nan outside of its evaluations."""
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


def find_obstacle(comparison: Comparison, axis: str) -> str:
    """Why costs cannot be compared, or nothing: steps need one unit, seconds one kind of device, had in one way."""
    runs = [reach.run for reach in (*comparison.baseline, *comparison.arm)]
    if axis == "steps" and len({run.step_unit for run in runs}) > 1:
        return "steps: the runs count them in different units"
    if axis not in ("seconds", "gpu_seconds"):
        return ""
    reason = find_clock_obstacle(runs, axis)
    return f"{axis}: {reason}" if reason else ""


def find_clock_obstacle(runs: Sequence[RunCurve], axis: str = "seconds") -> str:
    """Why the clock times of these runs cannot be compared, or nothing."""
    if not all(map(_is_device_known, runs)):
        return "on which devices the runs were trained is not known"
    if any(map(took_turns, runs)):
        return "the runs shared a GPU, which gives each the pace of all (with gpus: 1 each has its own)"
    keys = {sharing_of(run, axis) for run in runs}
    return "" if len(keys) == 1 else "the runs were trained on different devices, or shared them differently"


def _is_device_known(run: RunCurve) -> bool:
    device = device_of(run.manifest)
    return bool(device.get("kind") or device.get("name"))


def took_turns(run: RunCurve) -> bool:
    """Whether other runs had a part of the run's GPU: processes take turns at it, a step each, so that a fast arm waits
    for a slow one (reports/performance, "Small models").
    """
    return 0 < run.n_gpus < 1 and run.n_sharing != 1


def sharing_of(run: RunCurve, axis: str = "seconds") -> tuple[Any, ...]:
    """What has to agree for the clock times of two runs to be comparable."""
    device = device_of(run.manifest)
    shared = (device.get("kind"), device.get("name"), run.n_sharing, run.manifest.get("threads"))
    return (*shared, run.n_gpus, run.manifest.get("processes", 1)) if axis == "seconds" else shared


def _annotate(row: SpeedUp, note: str) -> SpeedUp:
    return replace(row, note=f"{row.note}; {note}" if row.note else note)


def _note_exclusions(results: Results, arm: str) -> list[str]:
    notes = []
    for name, whose in ((arm, "this arm"), (results.baseline_of(arm), "the baseline")):
        reasons = [_why_left_out(run) for run in results.runs_of(name) if not run.has_ended]
        if reasons:
            n, kinds = len(reasons), ", ".join(sorted(set(reasons)))
            notes.append(f"{n} {_runs(n)} of {whose} left out ({kinds})")
    return notes


def _why_left_out(run: RunCurve) -> str:
    if run.flaw or run.status.state == "failed":
        return run.state
    return "never evaluated" if run.status.state in ENDED else "unfinished"


def _note_early_ends(runs: Iterable[RunCurve], whose: str) -> list[str]:
    early = [run for run in runs if not run.is_whole]
    n_diverged = sum(run.is_diverged for run in early)
    counts = ((n_diverged, "diverged"), (len(early) - n_diverged, "stopped early"))
    return [f"{n} {_runs(n)} of {whose} {what}" for n, what in counts if n]


def _runs(n: int) -> str:
    return "run" if n == 1 else "runs"
