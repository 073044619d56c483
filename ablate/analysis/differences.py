"""Differences of final losses at the end of training, paired by seed, with one verdict per arm.

The arms of one baseline are a family. The word "loss" holds for any metric; for one of which higher is better, an arm
with a difference above zero is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ablate.analysis.effects import FINAL, Effect, fill_in
from ablate.analysis.families import Family, single_level
from ablate.analysis.intervals import adjust_p_values
from ablate.analysis.noise import FEWEST_PAIRS, Lender, choose_lenders
from ablate.analysis.power import find_detectable
from ablate.analysis.results import Results
from ablate.analysis.samples import Sample, collect_sample, estimate_family
from ablate.analysis.verdicts import ALPHA, Verdict, judge, p_of_equivalence


@dataclass(frozen=True)
class Difference(Effect):
    """The final loss of an arm minus its baseline's, with its verdict.

    `is_small` means that it is shown to be smaller than the smallest effect of interest; such a difference may be clear
    all the same. `sd` is the standard deviation of a paired difference, moderated if the test is. `detectable` is the
    difference that the study finds in 80 % of cases at that scatter.
    `method` is the test; it is empty if there is no interval. It says which earlier studies lend their scatter.
    """

    verdict: Verdict = "undecided"
    is_small: bool = False
    sd: float | None = None
    detectable: float | None = None
    method: str = ""


def find_differences(results: Results) -> tuple[Difference, ...]:
    """Compute the difference of each arm that has a final loss to compare, in the order of the study.

    For a leave-one-out design, these are the steps of its waterfall.
    """
    samples = [sample for name in results.compared_arms if (sample := collect_sample(results, name))]
    rows = {sample.name: _begin_row(sample, results) for sample in samples}
    for baseline in dict.fromkeys(sample.baseline for sample in samples):
        members = [sample for sample in samples if sample.baseline == baseline and sample.is_testable]
        if members:
            family, methods = estimate_family(members, choose_lenders(results, baseline))
            begun = [rows[sample.name] for sample in members]
            rows |= {row.arm: row for row in _judge(begun, family, methods, results)}
    return adjust_p_values(rows.values(), lambda row: row.baseline)


def list_lenders(results: Results) -> tuple[Lender, ...]:
    """List the arms whose scatter a later study can use: those with enough pairs that do not all differ by the same."""
    lenders = []
    for name in results.compared_arms:
        sample, arm = collect_sample(results, name), results.arms[name]
        if sample is None or sample.pairs.size < FEWEST_PAIRS or not sample.pairs.var():
            continue
        sides = (*results.runs_of(name), *results.runs_of(arm.baseline))
        run_ids = frozenset(run.run_id for run in sides if np.isfinite(run.final_loss))
        variance, study = float(sample.pairs.var(ddof=1)), results.record.study
        lenders.append(Lender(study, name, variance, sample.pairs.size, arm.n_params, arm.n_tokens, run_ids))
    return tuple(lenders)


def _begin_row(sample: Sample, results: Results) -> Difference:
    """The row of an arm, without interval and verdict."""
    mine, theirs = results.arms[sample.name].axes, results.arms[sample.baseline].axes
    levels = {axis: level for axis, level in mine.items() if theirs.get(axis) != level}
    return Difference(FINAL, levels, sample.estimate, sample.n, arm=sample.name, baseline=sample.baseline)


def _judge(rows: Sequence[Difference], family: Family, methods: Sequence[str], results: Results) -> list[Difference]:
    margin = results.smallest_effect
    turned = replace(family, mean=results.metric.orient(family.mean))
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
        for i, row in enumerate(fill_in(rows, family))
    ]
