"""Differences of final losses at the end of training, paired by seed, with one verdict per arm.

The arms of one baseline are a family. "Loss" stands for any metric. If higher values are better, an arm with
a difference above zero is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ablate.analysis.effects import FINAL, Effect, fill_in
from ablate.analysis.families import Family, single_level
from ablate.analysis.intervals import adjust_p_values
from ablate.analysis.looks import Standing, follow
from ablate.analysis.noise import FEWEST_PAIRS, Lender, choose_lenders
from ablate.analysis.power import find_detectable
from ablate.analysis.results import Results
from ablate.analysis.samples import Sample, collect_sample, estimate_family
from ablate.analysis.verdicts import ALPHA, Verdict, judge, p_of_equivalence
from ablate.tracking.study_record import SeedRule


@dataclass(frozen=True)
class Difference(Effect):
    """The final loss of an arm minus its baseline's, with its verdict.

    `is_small` means that it is shown to be smaller than the smallest effect of interest. It may still be clearly
    different from zero. `sd` is the standard deviation of a paired difference, moderated if the test is.
    `detectable` is the difference that the study finds in 80 % of cases at that scatter.

    `method` is the test, and which earlier studies lend their scatter; it is empty if there is no interval. In a
    study with `until: decided`, `n_seeds` is the number of seeds at the arm's last look, whose verdict counts; None
    before the first look. Intervals and p-values then account for all looks.
    """

    verdict: Verdict = "undecided"
    is_small: bool = False
    sd: float | None = None
    detectable: float | None = None
    method: str = ""
    n_seeds: int | None = None

    def to_dict(self) -> dict[str, Any]:
        content = super().to_dict()
        if self.n_seeds is None:
            del content["n_seeds"]
        return content


def find_differences(results: Results) -> tuple[Difference, ...]:
    """Compute the difference of each arm that has a final loss to compare, in the order of the study.

    For a leave-one-out design, these are the steps of its waterfall.
    """
    if results.record.seed_rule is not None:
        return _find_at_looks(results, results.record.seed_rule)
    samples = [sample for name in results.compared_arms if (sample := collect_sample(results, name))]
    rows = {sample.name: begin_row(sample, results) for sample in samples}
    for baseline in dict.fromkeys(sample.baseline for sample in samples):
        members = [sample for sample in samples if sample.baseline == baseline and sample.is_testable]
        if members:
            family, methods = estimate_family(members, choose_lenders(results, baseline))
            begun = [rows[sample.name] for sample in members]
            rows |= {row.arm: row for row in _judge(begun, family, methods, results)}
    return adjust_p_values(rows.values(), lambda row: row.baseline)


def _find_at_looks(results: Results, rule: SeedRule) -> tuple[Difference, ...]:
    """The differences at the last look at each arm. Runs of further seeds do not count."""
    course, rows = follow(results, rule), []
    for name in results.compared_arms:
        standing = course.standings.get(name)
        sample = standing.sample if standing else collect_sample(results, name, rule.seeds)
        if sample is not None:
            row = begin_row(sample, results)
            rows.append(row if standing is None else _fill_in_look(row, standing, results.smallest_effect))
    return adjust_p_values(rows, lambda row: row.baseline)


def _fill_in_look(row: Difference, standing: Standing, margin: float | None) -> Difference:
    plain, together = (standing.half_width(alpha) for alpha in (ALPHA, standing.single_alpha))
    p_value, p_simultaneous = standing.p_values
    error, df = np.asarray(standing.standard_error), np.asarray(standing.df)
    level = 1 - standing.level(standing.single_alpha)
    return replace(
        row,
        low=row.estimate - plain,
        high=row.estimate + plain,
        p_value=p_value,
        low_simultaneous=row.estimate - together,
        high_simultaneous=row.estimate + together,
        p_simultaneous=p_simultaneous,
        verdict=standing.verdict,
        is_small=margin is not None and standing.is_within(margin),
        sd=float(error * np.sqrt(row.n)),
        detectable=float(find_detectable(error, df, level)),
        method=standing.method,
        n_seeds=standing.seeds[-1],
    )


def list_lenders(results: Results) -> tuple[Lender, ...]:
    """List the arms whose scatter a later study can use: those with enough pairs of different results."""
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


def begin_row(sample: Sample, results: Results) -> Difference:
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
