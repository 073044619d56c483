"""Moderated variances: each arm's variance is shrunk towards the variances of the other arms of its family.

With three seeds, a variance has two degrees of freedom, and a t test loses most of its power to the noise of that
variance. The empirical Bayes estimate of Smyth (2004, doi:10.2202/1544-6115.1027) is
(d0 s0^2 + df s^2) / (d0 + df), with a prior variance s0^2 of d0 degrees of freedom. Two things differ from that paper:

- The prior variance of an arm comes from the other arms only. An arm that happens to scatter little would otherwise
  lower its own prior.
- The t distribution has df + `earned_df` degrees of freedom, which is at most df + d0. The prior variance comes from
  few arms, all of which share the runs of one baseline, so it is worth less than d0. `earned_df` is a table that
  `python -m benchmarks.verdicts --derive` finds by simulation.

Arms of earlier studies may lend their variances as further arms (`find_loan`), where simulation allows it.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import digamma

from ablate.analysis.curve_columns import Floats
from ablate.analysis.earned_df import BORROWED_DF, EARNED_DF, EQUIVALENCE_DF, SEEDS

PRIOR_DF = 2.0
"""The scatter of arms in published studies differs as if the prior had 1.9 to 2.3 degrees of freedom."""

SMALLEST_SHARE = 1e-5
"""Variances below this share of the family's median count as that share: a logarithm near 0 would decide everything."""


def earned_df(n_arms: int, n_pairs: int) -> float:
    """Return the degrees of freedom that moderation adds for one of `n_arms` arms with `n_pairs` pairs.

    0 means that the variance is not moderated, because that would not hold the level or would gain nothing. Between
    two numbers of arms that were simulated, the smaller of their values counts. Outside of the table it is 0.
    """
    return _look_up(EARNED_DF, n_arms, n_pairs)


def equivalence_df(n_arms: int, n_pairs: int) -> float:
    """Return the degrees of freedom that moderation adds in tests of equivalence, at most `earned_df`.

    Below 0, it takes some: the 90 % intervals of moderated arms would otherwise miss the truth a little too often.
    """
    return _look_up(EQUIVALENCE_DF, n_arms, n_pairs) if earned_df(n_arms, n_pairs) else 0.0


def _look_up(table: Mapping[int, tuple[float, ...]], n_arms: int, n_pairs: int) -> float:
    if n_pairs not in SEEDS or n_arms > max(table):
        return 0.0
    known = sorted(table)
    place = bisect.bisect_left(known, n_arms)
    rows = {known[place], known[place if known[place] == n_arms else place - 1]}
    return min(table[row][n_pairs - SEEDS[0]] for row in rows)


class Loan(NamedTuple):
    """How the variances of `n_earlier` arms of earlier studies count.

    The prior has `prior_df` degrees of freedom. It adds `earned` ones to intervals and `equivalence` to equivalence.
    """

    n_earlier: int
    prior_df: float
    earned: float
    equivalence: float


def find_loan(n_arms: int, n_pairs: int, n_earlier: int) -> Loan | None:
    """Return the loan that was simulated with the most of `n_earlier` arms, or None if none holds its level."""
    known = BORROWED_DF.get(n_arms, {}).get(n_pairs, {})
    return max((Loan(n, *known[n]) for n in known if n <= n_earlier), default=None)


def moderate(variance_a: Floats, df_a: Floats, prior_df: float = PRIOR_DF) -> Floats:
    """Shrink variances [..., arm] with degrees of freedom [..., arm] towards the other arms' common value.

    The common value matches the mean of log variance, which the digamma function corrects for the skewness of its
    distribution (Smyth 2004, section 6.2). Raises `ValueError` below two arms.
    """
    n = variance_a.shape[-1]
    if n < 2:
        raise ValueError("a prior variance needs at least one other arm")
    median = np.median(variance_a, axis=-1, keepdims=True)
    floor = np.where(median > 0, SMALLEST_SHARE * median, 1.0)  # without any scatter, each variance stays 0 below
    log_variance = np.log(np.maximum(variance_a, floor)) - digamma(df_a / 2) + np.log(df_a / 2)
    of_others = (log_variance.sum(axis=-1, keepdims=True) - log_variance) / (n - 1)
    prior = np.exp(of_others + digamma(prior_df / 2) - np.log(prior_df / 2))
    shrunk: Floats = (prior_df * prior + df_a * variance_a) / (prior_df + df_a)
    return np.where(median > 0, shrunk, variance_a)
