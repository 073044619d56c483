"""Differences judged at an error rate below 5 %, for studies that are one of many tries.

The degrees of freedom that moderation adds were derived for 5 % (`earned_df`). At 0.1 %, moderated tests of arms that
scatter differently are wrong up to twice too often. So tests here are the ordinary paired t, which is exact at any
level. The baselines of a study share its error rate evenly, and so do the looks of `until: decided`, by the share of it
that each look may spend. Verdicts then hold for the whole study together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from ablate.analysis.curve_columns import Floats
from ablate.analysis.differences import Difference, begin_row
from ablate.analysis.families import Family, adjust_sidak, single_level
from ablate.analysis.intervals import ROUNDING, t_estimate, welch_error
from ablate.analysis.looks import follow, judge_look
from ablate.analysis.power import find_detectable
from ablate.analysis.results import Results
from ablate.analysis.samples import PAIRED, WELCH, Sample, collect_sample
from ablate.analysis.spending import spend
from ablate.analysis.verdicts import Verdict


@dataclass(frozen=True)
class Tested:
    """The sample of an arm, the share of its error rate that its look may spend, and the seeds of that look."""

    sample: Sample
    share: float = 1.0
    n_seeds: int | None = None


def find_differences_at(results: Results, alpha: float) -> tuple[Difference, ...]:
    """Compute the difference of each arm that has a final loss to compare, with its verdict at the error rate `alpha`.

    At most that share of studies without any difference call an arm better or worse. The simultaneous intervals and
    p-values agree with the verdicts. If every seed has the same difference, as rounded metrics can, there is no test.
    """
    tested = _list_tested(results)
    families: dict[str, list[str]] = {}
    for arm in results.compared_arms:
        families.setdefault(results.baseline_of(arm), []).append(arm)
    rows: dict[str, Difference] = {}
    for arms in families.values():
        known = {arm: tested[arm] for arm in arms if arm in tested}
        rows |= {arm: begin_row(found.sample, results) for arm, found in known.items()}
        members = {arm: found for arm, found in known.items() if found.sample.is_testable and found.share}
        if members:
            rows |= _test(rows, members, len(arms), alpha / len(families), len(families), results)
    return tuple(rows[arm] for arm in results.compared_arms if arm in rows)


def _list_tested(results: Results) -> Mapping[str, Tested]:
    rule = results.record.seed_rule
    if rule is None:
        samples = {arm: collect_sample(results, arm) for arm in results.compared_arms}
        return {arm: Tested(sample) for arm, sample in samples.items() if sample is not None}
    standings, found = follow(results, rule).standings, {}
    for arm in results.compared_arms:
        if (standing := standings.get(arm)) is not None:
            n = standing.seeds[-1]
            before = spend((n - 1) / rule.at_most) if n > rule.at_least else 0.0
            found[arm] = Tested(standing.sample, spend(n / rule.at_most) - before, n)
        elif (sample := collect_sample(results, arm, rule.seeds)) is not None:
            found[arm] = Tested(sample, 0.0)  # no look has judged it
    return found


def _test(
    rows: Mapping[str, Difference],
    members: Mapping[str, Tested],
    n_arms: int,
    alpha: float,
    n_families: int,
    results: Results,
) -> dict[str, Difference]:
    share = np.array([found.share for found in members.values()])
    family = plain_family([found.sample for found in members.values()])
    level, level_of_equivalence = find_levels(n_arms, alpha, share)
    margin = results.smallest_effect
    turned = replace(family, mean=results.metric.orient(family.mean))
    verdicts: list[Verdict] = judge_look(turned, level, level_of_equivalence, margin).tolist()
    p_value = t_estimate(family.mean, family.standard_error, family.df).p_value
    together = np.minimum(adjust_sidak(np.minimum(p_value / share, 1.0), n_arms) * n_families, 1.0)
    half = stdtrit(family.df, 1 - level / 2) * family.standard_error
    near = stdtrit(family.df, 1 - level_of_equivalence) * family.standard_error
    detectable = find_detectable(family.standard_error, family.df, 1.0 - level)
    found = {}
    for i, (arm, test) in enumerate(members.items()):
        sample = test.sample
        row = replace(rows[arm], method=PAIRED if sample.pairs.size else WELCH, n_seeds=test.n_seeds)
        if np.isfinite(family.standard_error[i]):
            row = replace(
                row,
                low_simultaneous=float(family.mean[i] - half[i]),
                high_simultaneous=float(family.mean[i] + half[i]),
                p_value=float(p_value[i]),
                p_simultaneous=float(together[i]),
                verdict=verdicts[i],
                is_small=margin is not None and bool(abs(family.mean[i]) + near[i] < margin),
                sd=float(family.standard_error[i] * np.sqrt(row.n)),
                detectable=float(detectable[i]),
            )
        found[arm] = row
    return found


def find_levels(n_arms: int, alpha: float, share: Floats | float = 1.0) -> tuple[Floats, Floats]:
    """Return the levels [arm] of the test for a difference and of that for equivalence.

    `alpha` is the error rate of all arms of one baseline together, and `share` what the look of an arm may spend of it.
    As elsewhere, equivalence is not adjusted for the number of arms.
    """
    shares = np.asarray(share, np.float64)
    return (1.0 - single_level(n_arms, 1.0 - alpha)) * shares, alpha * shares


def plain_family(samples: Sequence[Sample]) -> Family:
    """Estimate arms one by one, without moderation. The standard error is infinite where every pair is the same."""
    mean = np.array([sample.estimate for sample in samples])
    error, df = np.empty_like(mean), np.empty_like(mean)
    for i, sample in enumerate(samples):
        if sample.pairs.size:
            error[i], df[i] = np.sqrt(sample.variance / sample.n), sample.n - 1
        else:
            error[i], df[i] = welch_error(sample.arm, sample.base)
    is_rounded = (error <= ROUNDING) & (np.abs(mean) > ROUNDING)
    return Family(mean, np.where(is_rounded, np.inf, error), df)
