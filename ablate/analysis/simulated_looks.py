"""Looks at many simulated studies at once, by the rules of `looks`: how many seeds arms take, and how they end."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from ablate.analysis.curve_columns import Floats
from ablate.analysis.families import make_family, single_level
from ablate.analysis.looks import UNDECIDED, judge_look
from ablate.analysis.moderated import earned_df
from ablate.analysis.spending import KEPT_FOR_EQUIVALENCE, kept, level_at
from ablate.analysis.verdicts import ALPHA


@dataclass(frozen=True, eq=False)
class Ends:
    """How the arms of simulated studies ended [study, arm], with estimates and half of their simultaneous intervals."""

    verdict: NDArray[np.str_]
    seeds: NDArray[np.intp]
    mean: Floats
    half_width: Floats

    @property
    def baseline_seeds(self) -> NDArray[np.intp]:
        """The seeds of the baseline [study], which trains as long as one of the arms does."""
        most: NDArray[np.intp] = self.seeds.max(axis=-1)
        return most


def take_looks(differences: Floats, at_least: int, margin: float | None, lost: NDArray[np.bool_] | None = None) -> Ends:
    """Judge paired differences [study, arm, seed] after each seed from `at_least` on, until all are used.

    Arms for which `lost` [arm] is true have no first seed, as if that run had diverged.
    """
    n, n_arms, at_most = differences.shape
    lost = np.zeros(n_arms, bool) if lost is None else lost
    is_open = np.ones((n, n_arms), bool)
    verdict = np.full((n, n_arms), UNDECIDED, dtype="<U10")
    seeds = np.full((n, n_arms), at_least)
    mean, variance, n_pairs, half_width = (np.full((n, n_arms), start) for start in (0.0, 1.0, 2.0, 0.0))
    known = np.where(lost[:, None] & (np.arange(at_most) == 0), 0.0, differences)
    sums, squares = known.cumsum(axis=-1), (known**2).cumsum(axis=-1)
    for until in range(at_least, at_most + 1):
        k = np.broadcast_to(until - lost, (n, n_arms))
        now = sums[..., until - 1] / k
        spread = (squares[..., until - 1] - k * now**2) / (k - 1)
        for kept_values, new in ((mean, now), (variance, spread), (n_pairs, k)):
            kept_values[is_open] = new[is_open]
        planned = tuple(range(at_least, until + 1))
        pairs = [tuple(k - int(is_lost) for k in planned) for is_lost in lost]
        alpha = kept(at_most) * (1 - single_level(n_arms))
        different = np.array([level_at(alpha, p, planned, at_most) for p in pairs])
        equivalent = np.array([level_at(KEPT_FOR_EQUIVALENCE * ALPHA, p, planned, at_most, 1) for p in pairs])
        # Quantiles of t take long. Open arms have the same degrees of freedom in all studies, and no others are judged.
        df = np.array([k - 1 + earned_df(n_arms, k) for k in (until - lost).tolist()])
        family = replace(make_family(mean, variance, n_pairs), df=df)
        found = judge_look(family, different, equivalent, margin)
        half = stdtrit(df, 1 - different / 2) * family.standard_error
        for kept_values, new in ((verdict, found), (half_width, half), (seeds, np.broadcast_to(until, seeds.shape))):
            kept_values[is_open] = new[is_open]
        is_open &= found == UNDECIDED
    return Ends(verdict, seeds, mean, half_width)
