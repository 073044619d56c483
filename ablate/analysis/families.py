"""All arms of one baseline at once: intervals and p-values that agree with each other and hold for the whole family.

The simultaneous interval of an arm excludes 0 exactly if its simultaneous p-value is below 0.05, because both come from
one t distribution by the method of Šidák (1967): among m arms, a p-value p becomes 1 - (1 - p)^m, and an interval of
level L is computed at level L^(1/m). Holm's method finds a little more, but no useful intervals agree with it.
`benchmarks/verdicts.py` measures how often a family is wrong. Every function takes leading batch dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from ablate.analysis.curve_columns import Floats
from ablate.analysis.intervals import LEVEL, Estimate, t_estimate
from ablate.analysis.moderated import earned_df, moderate


@dataclass(frozen=True, eq=False)
class Family:
    """The mean differences of all arms of a baseline [..., arm], with standard errors, and degrees of freedom [arm].

    `df` has the batch dimensions as well if it differs between them, as Welch's does.
    """

    mean: Floats
    standard_error: Floats
    df: Floats

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


def make_family(mean_a: Floats, variance_a: Floats, n_pairs_a: Floats) -> Family:
    """Build a family from mean paired differences [..., arm], their variances (ddof 1), and numbers of pairs.

    The numbers are [arm], or have the batch dimensions as well. The variance of an arm is moderated where `earned_df`
    says so. Raises `ValueError` if an arm has one pair.
    """
    if n_pairs_a.min() < 2:
        raise ValueError("an interval needs at least two pairs of every arm")
    df = n_pairs_a - 1.0
    numbers, place = np.unique(n_pairs_a, return_inverse=True)
    earned = np.array([earned_df(n_pairs_a.shape[-1], int(n)) for n in numbers])[place.reshape(n_pairs_a.shape)]
    if earned.any():
        variance_a = np.where(earned > 0, moderate(variance_a, df), variance_a)
    return Family(mean_a, np.sqrt(variance_a / n_pairs_a), df + earned)


def single_level(n: int, level: float = LEVEL) -> float:
    """Return the level of each of `n` intervals that all hold together with probability `level`."""
    return float(level ** (1 / n))


def adjust_sidak(p_value: Floats, n: int) -> Floats:
    """Adjust p-values for `n` tests: the probability that the smallest of n independent ones is at most p."""
    with np.errstate(divide="ignore"):  # the logarithm of 0, if p is 1
        adjusted: Floats = -np.expm1(n * np.log1p(-p_value))
    return adjusted
