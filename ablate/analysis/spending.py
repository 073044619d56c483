"""Alpha spending (Lan & DeMets 1983): how much of an error rate each look at a growing sample may use.

A study that is judged after 3, 4, 5, ... seeds has several chances to be wrong. Each look gets a nominal level, such
that the chance to cross any boundary is the error rate that was spent up to that look. The levels come from the joint
distribution of the test statistics (Armitage, McPherson & Rowe 1969), integrated numerically without random numbers.
That distribution is normal, and a level is then applied to the p-value of a t test (Jennison & Turnbull 2000, section
4.4). With few seeds this spends more than intended, so `kept` spends less.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from scipy.special import ndtr

from ablate.analysis.curve_columns import Floats
from ablate.analysis.families import single_level
from ablate.analysis.moderated import earned_df
from ablate.analysis.power import POWER as FOUND
from ablate.analysis.power import find_detectable

POWER = 2.0
"""The exponent of the spending function alpha t^rho (Kim & DeMets 1987), at a share t of the seeds."""


KEPT_FOR_EQUIVALENCE = 0.85
"""The share of the rate of false equivalence that is spent; see `kept`."""

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_WIDTH = 9.0  # standard deviations, beyond which a normal density counts as 0
_BISECTIONS = 50


@cache
def nominal_levels(spent: tuple[float, ...], information: tuple[float, ...], sides: int = 2) -> tuple[float, ...]:
    """Return the level of the test at each look, so that looks 1 to k together have the error rate `spent[k]`.

    `information` is proportional to the size of the sample at each look. `sides` is 1 or 2.
    Raises `ValueError` unless both increase.
    """
    if np.any(np.diff((0.0, *spent)) <= 0) or np.any(np.diff((0.0, *information)) <= 0):
        raise ValueError("the error rate that is spent, and the information, must increase from look to look")
    levels = []
    place, density = np.zeros(1), np.ones(1)  # of the sum statistic while no boundary has been crossed
    before = 0.0
    for total, until in zip(np.diff((0.0, *spent)), information, strict=True):
        step = float(np.sqrt(until - before))
        z = _find_boundary(total, place, density, step, float(np.sqrt(until)), sides)
        levels.append(float(sides * ndtr(-z)))
        top = z * np.sqrt(until)
        bottom = -top if sides == 2 else min(-top, -_WIDTH * np.sqrt(until))
        half = (top - bottom) / 2
        new = bottom + half * (_NODES + 1)
        kernel = np.exp(-(((new[:, None] - place) / step) ** 2) / 2) / (step * np.sqrt(2 * np.pi))
        place, density, before = new, half * _WEIGHTS * (kernel @ density), until
    return tuple(levels)


def _find_boundary(error: float, place: Floats, density: Floats, step: float, scale: float, sides: int) -> float:
    """Find the z beyond which the statistic moves with probability `error`, by bisection."""
    low, high = 0.0, 40.0
    for _ in range(_BISECTIONS):
        z = (low + high) / 2
        beyond = ndtr((place - z * scale) / step)
        if sides == 2:
            beyond = beyond + ndtr((-z * scale - place) / step)
        low, high = (z, high) if float(density @ beyond) > error else (low, z)
    return (low + high) / 2


def level_at(alpha: float, pairs: tuple[int, ...], seeds: tuple[int, ...], at_most: int, sides: int = 2) -> float:
    """Return the level of the last of several looks; 0 if it has no more pairs than the one before.

    `seeds` are the planned seeds at each look, which decide how much of `alpha` may be spent, and `pairs` the pairs
    that an arm really had. A look without new pairs leaves its share to the next one.
    """
    useful = [k for k, n in enumerate(pairs) if n > 1 and n > max((1, *pairs[:k]))]
    if not useful or useful[-1] < len(pairs) - 1:
        return 0.0
    spent = tuple(alpha * spend(seeds[k] / at_most) for k in useful)
    return nominal_levels(spent, tuple(float(pairs[k]) for k in useful), sides)[-1]


def kept(at_most: int) -> float:
    """Return the share of an error rate that looks at up to `at_most` seeds spend.

    The rest makes up for the difference between t and normal statistics, which matters most in short studies. The
    numbers come from simulations; `python -m benchmarks.sequential` checks them with others.
    """
    return min(0.8, 0.65 + 0.0075 * at_most)


def spend(share: float) -> float:
    """Return the share of the error rate that may be spent up to a share of the seeds."""
    return float(share**POWER)


def repeated_p_value(p_value: float, alpha: float, pairs: Sequence[int], seeds: Sequence[int], at_most: int) -> float:
    """Return the error rate with which the last of several looks would just have been significant.

    `p_value` is that of the test at this look. Significant means that it is below `level_at` of what is `kept` of the
    rate. Values in between are interpolated, and the rate `alpha` is exact.
    """
    rates = alpha * 2.0 ** np.arange(-20, 12)
    rates = rates[rates < 1]
    levels = np.array([level_at(kept(at_most) * float(rate), (*pairs,), (*seeds,), at_most) for rate in rates])
    if not levels[-1]:
        return 1.0
    rate = np.exp(np.interp(np.log(max(p_value, 1e-300)), np.log(levels), np.log(rates)))
    return 1.0 if p_value > levels[-1] else float(rate)


def detectable_at_look(
    sd: float, n_arms: int, at_least: int, n_seeds: int, at_most: int, power: float = FOUND
) -> float:
    """Return the difference that the look at `n_seeds` seeds finds with probability `power`.

    Earlier looks find it in some of the other studies.
    """
    seeds = tuple(range(at_least, n_seeds + 1))
    level = level_at(kept(at_most) * (1 - single_level(n_arms)), seeds, seeds, at_most)
    df = np.asarray(n_seeds - 1 + earned_df(n_arms, n_seeds))
    return float(find_detectable(np.asarray(sd / np.sqrt(n_seeds)), df, 1 - level, power))
