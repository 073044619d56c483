"""Differences of final losses at the end of training, paired by seed, with one verdict per arm.

The arms of one baseline are a family. The word "loss" holds for any metric; for one of which higher is better, an arm
with a difference above zero is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ablate.analysis.curve_columns import Floats
from ablate.analysis.effects import FINAL, Effect, fill_in
from ablate.analysis.families import Family, make_family, single_level
from ablate.analysis.intervals import adjust_p_values, welch_error
from ablate.analysis.moderated import SMALLEST_SHARE
from ablate.analysis.power import find_detectable
from ablate.analysis.results import Results
from ablate.analysis.verdicts import ALPHA, Verdict, judge, p_of_equivalence

PAIRED, MODERATED, WELCH = "paired t", "moderated paired t", "Welch's t, because the seeds do not match"


@dataclass(frozen=True)
class Difference(Effect):
    """The final loss of an arm minus its baseline's, with its verdict.

    `is_small` means that it is shown to be smaller than the smallest effect of interest; such a difference may be clear
    all the same. `sd` is the standard deviation of a paired difference, moderated if the test is. `detectable` is the
    difference that the study finds in 80 % of cases at that scatter.
    `method` is the test; it is empty if there is no interval.
    """

    verdict: Verdict = "undecided"
    is_small: bool = False
    sd: float | None = None
    detectable: float | None = None
    method: str = ""


@dataclass(frozen=True, eq=False)
class _Sample:
    """What is known of an arm: its row so far, and the paired differences, or the losses of both sides."""

    row: Difference
    pairs: Floats
    arm: Floats
    baseline: Floats

    @property
    def is_testable(self) -> bool:
        return self.pairs.size > 1 or (not self.pairs.size and min(self.arm.size, self.baseline.size) > 1)


def find_differences(results: Results) -> tuple[Difference, ...]:
    """Compute the difference of each arm that has a final loss to compare, in the order of the study.

    For a leave-one-out design, these are the steps of its waterfall.
    """
    samples = [sample for name in results.compared_arms if (sample := _collect(results, name))]
    rows = {sample.row.arm: sample.row for sample in samples}
    for baseline in dict.fromkeys(sample.row.baseline for sample in samples):
        members = [sample for sample in samples if sample.row.baseline == baseline and sample.is_testable]
        if members:
            rows |= {row.arm: row for row in _test(members, results)}
    return adjust_p_values(rows.values(), lambda row: row.baseline)


def _collect(results: Results, name: str) -> _Sample | None:
    """Pair the final losses by seed. If fewer than two seeds match although both sides have two, nothing is paired."""
    arm, base = results.arms[name], results.arms[results.baseline_of(name)]
    mine, theirs = (
        {run.seed: run.final_loss for run in results.runs_of(side) if np.isfinite(run.final_loss)}
        for side in (name, base.arm)
    )
    if not mine or not theirs:
        return None
    pairs = np.array([loss - theirs[seed] for seed, loss in mine.items() if seed in theirs], np.float64)
    if pairs.size < 2 <= min(len(mine), len(theirs)):
        pairs = pairs[:0]
    losses, base_losses = (np.array(list(side.values()), np.float64) for side in (mine, theirs))
    levels = {axis: level for axis, level in arm.axes.items() if base.axes.get(axis) != level}
    estimate = pairs.mean() if pairs.size else losses.mean() - base_losses.mean()
    row = Difference(FINAL, levels, float(estimate), pairs.size or losses.size, arm=name, baseline=base.arm)
    return _Sample(row, pairs, losses, base_losses)


def _test(members: Sequence[_Sample], results: Results) -> list[Difference]:
    """Test the arms of one baseline together."""
    mean = np.array([sample.row.estimate for sample in members])
    error, df, methods = np.empty(mean.size), np.empty(mean.size), [WELCH] * mean.size
    n_pairs = np.array([float(sample.pairs.size) for sample in members])
    variance = np.array([sample.pairs.var(ddof=1) if sample.pairs.size else np.nan for sample in members])
    paired = np.flatnonzero(n_pairs)
    for places, borrowed in _group(paired, variance):
        chosen = [*borrowed, *places]
        family = make_family(mean[chosen], variance[chosen], n_pairs[chosen])
        kept = slice(len(borrowed), None)
        error[places], df[places] = family.standard_error[kept], family.df[kept]
        for place in places:
            methods[place] = MODERATED if df[place] > n_pairs[place] - 1 else PAIRED
    for place, sample in enumerate(members):
        if not sample.pairs.size:
            error[place], df[place] = welch_error(sample.arm, sample.baseline)
    return _judge(members, Family(mean, error, df), methods, results)


def _group(paired: NDArray[np.intp], variance: Floats) -> Iterator[tuple[list[int], list[int]]]:
    """Yield arms to be tested together, and the arms that only lend them their scatter.

    Rounded metrics, such as accuracies, can differ by the same in every seed. An arm without scatter would lower the
    prior of all others to nearly 0, so it borrows from them and lends them nothing.
    """
    if not paired.size:
        return
    scatters = variance[paired] > SMALLEST_SHARE * np.median(variance[paired])
    lenders = paired[scatters].tolist()
    if lenders:
        yield lenders, []
    for still in paired[~scatters].tolist():
        yield [still], lenders


def _judge(members: Sequence[_Sample], family: Family, methods: Sequence[str], results: Results) -> list[Difference]:
    margin = results.smallest_effect
    turned = Family(results.metric.orient(family.mean), family.standard_error, family.df)
    verdicts: list[Verdict] = judge(turned, margin).tolist()
    is_small = np.zeros(family.n_arms) if margin is None else p_of_equivalence(family, margin) < ALPHA
    detectable = find_detectable(family.standard_error, family.df, single_level(family.n_arms))
    return [
        replace(
            row,
            verdict=verdicts[i],
            is_small=bool(is_small[i]),
            sd=float(family.standard_error[i] * np.sqrt(row.n)),
            detectable=float(detectable[i]),
            method=methods[i],
        )
        for i, row in enumerate(fill_in([sample.row for sample in members], family))
    ]
