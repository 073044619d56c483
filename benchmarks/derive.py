"""The degrees of freedom that moderation may add, found by simulation: the tables of `ablate/analysis/earned_df.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import stdtrit

from ablate.analysis.curve_columns import Floats
from ablate.analysis.families import Family, moderate_with
from ablate.analysis.moderated import PRIOR_DF, moderate
from ablate.analysis.verdicts import ALPHA
from benchmarks.families import SCENARIOS, Rates, Studies, find_rates, simulate

REFUTED = frozenset({(2, 2, 1)})
"""Arms, seeds and earlier arms of a loan that passed by luck: other random numbers give 0.061 family-wise errors."""

PRIORS = (2.0, 1.5, 1.25, 1.0, 0.75)  # degrees of freedom that a prior with arms of earlier studies may have

STRICT_ERRORS, STRICT_LOAN_ERRORS, STRICT_COVERAGE = 0.057, 0.055, (0.932, 0.968)
"""What a method must keep when the tables are derived, so that other simulations confirm them.

Loans are the best of several priors, each with its own chance of looking good, so they must keep a little more.
"""


def derive(n_arms: int, n_seeds: int, n: int, seed: int) -> tuple[float, float]:
    """Find the degrees of freedom that moderation may add to intervals and to tests of equivalence.

    Both are 0 if it gains no power over the ordinary t.
    """
    if n_arms < 2:
        return 0.0, 0.0
    studies = [simulate(n_arms, n_seeds, scenario, n, seed) for scenario in SCENARIOS]
    found = _try_prior([moderate_all(drawn) for drawn in studies], n_seeds, STRICT_ERRORS)
    if found is None or found[0] <= _average_power([make_plain(drawn) for drawn in studies]):
        return 0.0, 0.0
    return found[1:]


def derive_loan(n_arms: int, n_seeds: int, n_earlier: int, n: int, seed: int) -> tuple[float, float, float] | None:
    """Find the prior's degrees of freedom with which earlier arms help most, and what they may add, as `derive` does.

    None if they do not help, compared with the same verdicts without them.
    """
    if (n_arms, n_seeds, n_earlier) in REFUTED:
        return None
    studies = [simulate(n_arms, n_seeds, scenario, n, seed, n_earlier) for scenario in SCENARIOS]
    best, found = _average_power([replace(drawn, earlier=None).family for drawn in studies]), None
    for prior_df in PRIORS:
        tried = _try_prior([moderate_all(drawn, prior_df) for drawn in studies], n_seeds, STRICT_LOAN_ERRORS, prior_df)
        if tried is not None and tried[0] > best:
            best, found = tried[0], (prior_df, *tried[1:])
    return found


def _try_prior(
    families: Sequence[Family], n_seeds: int, most_errors: float, prior_df: float = PRIOR_DF
) -> tuple[float, float, float] | None:
    """Find the most degrees of freedom that hold in every scenario.

    Returns the average power, and what may be added to intervals and to equivalence; None if nothing holds.

    Errors grow with the degrees of freedom, so each scenario starts from what the ones before it allow.
    """
    allowed = [eighths / 8 for eighths in range(round(8 * prior_df), 0, -1)]
    for family, scenario in zip(families, SCENARIOS, strict=True):
        while allowed and not _is_allowed(find_rates(_add_df(family, allowed[0]), scenario), most_errors):
            del allowed[0]
    if not allowed:
        return None
    rates = [find_rates(_add_df(family, allowed[0]), known) for family, known in zip(families, SCENARIOS, strict=True)]
    if max(found.coverage for found in rates) > STRICT_COVERAGE[1]:
        return None
    df = n_seeds - 1
    # of arms that lost no seed
    t = max(float(np.quantile(_read_t(family, df), 1 - 2 * ALPHA)) for family in families if (family.df == df).any())
    eighths = range(round(8 * allowed[0]), -8 * df, -1)
    lost = next(e / 8 for e in eighths if stdtrit(df + e / 8, 1 - ALPHA) >= t)
    return float(np.mean([found.power for found in rates])), allowed[0], lost


def _average_power(families: Sequence[Family]) -> float:
    return float(np.mean([find_rates(family, known).power for family, known in zip(families, SCENARIOS, strict=True)]))


def _read_t(family: Family, df: float) -> Floats:
    is_whole = family.df == df
    t: Floats = np.abs(family.mean[:, is_whole]) / family.standard_error[:, is_whole]
    return t


def _is_allowed(rates: Rates, most_errors: float) -> bool:
    return rates.error <= most_errors and rates.coverage >= STRICT_COVERAGE[0]


def _add_df(family: Family, earned: float) -> Family:
    return Family(family.mean, family.standard_error, family.df + earned)


def make_plain(studies: Studies) -> Family:
    """Build the family without moderation."""
    return Family(studies.mean, np.sqrt(studies.variance / studies.n_pairs), studies.n_pairs - 1)


def moderate_all(studies: Studies, prior_df: float = PRIOR_DF) -> Family:
    """Build the family with moderated variances that add no degrees of freedom."""
    df = studies.n_pairs - 1
    if studies.earlier is None:
        variance = moderate(studies.variance, df, prior_df)
    else:
        variance = moderate_with(studies.earlier, studies.variance, df, prior_df)
    return Family(studies.mean, np.sqrt(variance / studies.n_pairs), df)
