"""All arms of one baseline at once: intervals and p-values that agree with each other and hold for the whole family.

The simultaneous interval of an arm excludes 0 exactly if its simultaneous p-value is below 0.05, because both come from
one t distribution by the method of Šidák (1967): among m arms, a p-value p becomes 1 - (1 - p)^m, and an interval of
level L is computed at level L^(1/m). Holm's method finds a little more, but no useful intervals agree with it.
`benchmarks/verdicts.py` measures how often a family is wrong. Every function takes leading batch dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from ablate.analysis.curve_columns import Floats
from ablate.analysis.intervals import LEVEL, Estimate, t_estimate
from ablate.analysis.moderated import earned_df, equivalence_df, find_loan, moderate


@dataclass(frozen=True, eq=False)
class Family:
    """The mean differences of all arms of a baseline [..., arm], with standard errors, and degrees of freedom [arm].

    `df` has the batch dimensions as well if it differs between them, as Welch's does. Tests of equivalence have
    `equivalence_df` degrees of freedom, by default the same.
    """

    mean: Floats
    standard_error: Floats
    df: Floats
    equivalence_df: Floats | None = None

    @property
    def n_arms(self) -> int:
        return int(self.mean.shape[-1])

    def half_width(self, level: float = LEVEL) -> Floats:
        """Return half the width of the plain intervals [..., arm], without the p-values, which take long to compute."""
        half: Floats = stdtrit(self.df, 0.5 + level / 2) * self.standard_error
        return half

    def plain(self, level: float = LEVEL) -> Estimate:
        """Estimate each arm by itself: its interval and p-value ignore that there are other arms."""
        return t_estimate(self.mean, self.standard_error, self.df, level)

    def simultaneous(self, level: float = LEVEL) -> Estimate:
        """Return intervals that all hold together with probability `level`, and p-values that agree with them."""
        estimate = self.plain(single_level(self.n_arms, level))
        return Estimate(estimate.mean, estimate.low, estimate.high, adjust_sidak(estimate.p_value, self.n_arms))


class Earlier(NamedTuple):
    """The variances (ddof 1) [..., arm] of paired differences in earlier studies, and their numbers of pairs [arm]."""

    variance: Floats
    n_pairs: Floats

    def take(self, n: int) -> Earlier:
        """The first `n` arms."""
        return Earlier(self.variance[..., :n], self.n_pairs[:n])


def make_family(mean_a: Floats, variance_a: Floats, n_pairs_a: Floats, earlier: Earlier | None = None) -> Family:
    """Build a family from mean paired differences [..., arm], their variances (ddof 1), and numbers of pairs.

    The numbers are [arm], or have the batch dimensions as well. The variance of an arm is moderated where `earned_df`
    says so, and together with arms of `earlier` studies where `find_loan` says so. Raises `ValueError` if an arm has
    one pair.
    """
    if n_pairs_a.min() < 2:
        raise ValueError("an interval needs at least two pairs of every arm")
    n_arms, df = n_pairs_a.shape[-1], n_pairs_a - 1.0
    variance, added, added_equivalence = variance_a, np.zeros(df.shape), np.zeros(df.shape)
    moderated = moderate(variance_a, df) if n_arms > 1 else variance_a
    for n in np.unique(n_pairs_a).astype(int).tolist():
        is_here = n_pairs_a == n
        loan = None if earlier is None else find_loan(n_arms, n, earlier.n_pairs.size)
        if earlier is not None and loan is not None:
            shrunk = moderate_with(earlier.take(loan.n_earlier), variance_a, df, loan.prior_df)
            earned = loan.earned, loan.equivalence
        elif earned_df(n_arms, n):
            shrunk, earned = moderated, (earned_df(n_arms, n), equivalence_df(n_arms, n))
        else:
            continue
        variance = np.where(is_here, shrunk, variance)
        added[is_here], added_equivalence[is_here] = earned
    return Family(mean_a, np.sqrt(variance / n_pairs_a), df + added, df + added_equivalence)


def moderate_with(earlier: Earlier, variance_a: Floats, df_a: Floats, prior_df: float) -> Floats:
    """Shrink variances [..., arm] towards those of the other arms and of earlier studies."""
    known = np.concatenate([variance_a, earlier.variance], axis=-1)
    others = np.broadcast_to(earlier.n_pairs - 1.0, (*df_a.shape[:-1], earlier.n_pairs.size))
    return moderate(known, np.concatenate([df_a, others], axis=-1), prior_df)[..., : df_a.shape[-1]]


def single_level(n: int, level: float = LEVEL) -> float:
    """Return the level of each of `n` intervals that all hold together with probability `level`."""
    return float(level ** (1 / n))


def adjust_sidak(p_value: Floats, n: int) -> Floats:
    """Adjust p-values for `n` tests: the probability that the smallest of n independent ones is at most p."""
    with np.errstate(divide="ignore"):  # the logarithm of 0, if p is 1
        adjusted: Floats = -np.expm1(n * np.log1p(-p_value))
    return adjusted
