"""One verdict per arm: better, worse, equivalent or undecided.

An arm is better or worse if its simultaneous p-value is below 0.05. Otherwise it is equivalent if two one-sided tests
(Schuirmann 1987) put its difference between -m and +m, where m is the smallest effect of interest. That is the case
exactly if its plain 90 % interval lies in that range, with the degrees of freedom that the family has for such tests. A
difference can be clear and yet smaller than m.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from ablate.analysis.curve_columns import Floats
from ablate.analysis.families import Family
from ablate.analysis.intervals import LEVEL, ROUNDING

Verdict = Literal["better", "worse", "equivalent", "undecided"]

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
ALPHA = 1 - LEVEL


def p_of_equivalence(family: Family, margin: float) -> Floats:
    """Return the larger p-value of two one-sided tests [..., arm]: that a difference is below -margin or above margin.

    It is not adjusted for the number of arms. At most 5 % of the arms that differ by exactly the margin pass.
    """
    df = family.df if family.equivalence_df is None else family.equivalence_df
    room = margin - np.abs(family.mean)
    has_spread = family.standard_error > ROUNDING
    t = np.divide(room, family.standard_error, out=np.zeros_like(room), where=has_spread)
    p_value: Floats = np.where(has_spread, stdtr(df, -t), np.where(room > 0, 0.0, 1.0))
    return p_value


def judge(family: Family, margin: float | None) -> NDArray[np.str_]:
    """Return the verdict on each arm [..., arm]. Below 0 is better. Without a margin, no arm is equivalent."""
    is_clear = family.simultaneous().p_value < ALPHA
    is_equivalent = np.zeros_like(is_clear) if margin is None else p_of_equivalence(family, margin) < ALPHA
    better, worse, equivalent, undecided = VERDICTS
    cases = [is_clear & (family.mean < 0), is_clear, is_equivalent]
    return np.select(cases, [better, worse, equivalent], undecided)
