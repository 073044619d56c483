"""The power of a study: the difference that it detects in 80 % of cases, and the seeds that a difference needs.

An effect is found if its simultaneous p-value is below 0.05. Its t statistic has the noncentral t distribution, with
the degrees of freedom of `families`. Results in the wrong direction, which are rarer than 1 in 1000, are not counted.
"""

from __future__ import annotations

import numpy as np
from scipy.special import chdtri, nctdtr, nctdtrinc, stdtrit

from ablate.analysis.curve_columns import Floats
from ablate.analysis.families import single_level
from ablate.analysis.intervals import LEVEL
from ablate.analysis.moderated import earned_df, find_loan

POWER = 0.8
MOST_SEEDS = 10_000
MOST_CRITICAL = 1_000.0


def power_of(effect: Floats, standard_error: Floats, df: Floats, level: float = LEVEL) -> Floats:
    """Return the probability that a two-sided test at this level finds an effect, in the effect's direction."""
    power: Floats = 1 - nctdtr(df, np.abs(effect) / standard_error, stdtrit(df, 0.5 + level / 2))
    return power


def find_detectable(standard_error: Floats, df: Floats, level: float | Floats = LEVEL, power: float = POWER) -> Floats:
    """Return the effect that a two-sided test at this level, or each at its own, finds with probability `power`.

    Beyond a critical value of `MOST_CRITICAL`, the noise of the mean no longer matters beside that of its standard
    error, and the search for the noncentral t would not end.
    """
    critical = stdtrit(df, 0.5 + np.asarray(level) / 2)
    is_far = critical > MOST_CRITICAL
    near = nctdtrinc(df, 1 - power, np.minimum(critical, MOST_CRITICAL))
    effect: Floats = standard_error * np.where(is_far, critical * np.sqrt(chdtri(df, 1 - power) / df), near)
    return effect


def find_df(n_arms: int, n_seeds: int, n_earlier: int = 0) -> float:
    """Return the degrees of freedom of a test of one of `n_arms` arms, with `n_earlier` arms of earlier studies."""
    loan = find_loan(n_arms, n_seeds, n_earlier)
    return n_seeds - 1 + (earned_df(n_arms, n_seeds) if loan is None else loan.earned)


def detectable_difference(sd: float, n_arms: int, n_seeds: int, power: float = POWER, n_earlier: int = 0) -> float:
    """Return the difference that `n_seeds` pairs find, if paired differences have the standard deviation `sd`.

    `n_earlier` arms of earlier studies lend their scatter. Raises `ValueError` below two seeds.
    """
    if n_seeds < 2:
        raise ValueError("one seed finds no difference of any size")
    df = np.asarray(find_df(n_arms, n_seeds, n_earlier))
    return float(find_detectable(np.asarray(sd / np.sqrt(n_seeds)), df, single_level(n_arms), power))


def seeds_needed(effect: float, sd: float, n_arms: int, power: float = POWER, n_earlier: int = 0) -> int | None:
    """Return the fewest seeds that detect an effect, or None if `MOST_SEEDS` do not."""
    n = np.arange(2, MOST_SEEDS + 1)
    df = np.array([find_df(n_arms, int(k), n_earlier) for k in n])
    enough = power_of(np.asarray(effect), sd / np.sqrt(n), df, single_level(n_arms)) >= power
    return int(n[enough.argmax()]) if enough.any() else None
