"""Seeds that were added after a look at the results, and what such a look costs.

A fixed number of seeds spends its error rate at the first look. Adding seeds and looking again is another chance to be
wrong, and the verdict does not account for it.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from ablate.analysis.families import make_family, single_level
from ablate.analysis.intervals import ROUNDING
from ablate.tracking.study_record import StudyRecord

STUDIES, SEED = 20_000, 0
SPREAD = 0.5  # arms scatter by exp(0.5 z) between seeds, as in published studies
MOST_ARMS, MOST_SEEDS = 20, 60  # of the simulation


def find_peeks(record: StudyRecord) -> tuple[int, ...]:
    """The numbers of seeds with which results were looked at before the study got more of them, or a rule for them.

    Looks after the rule was declared do not count: it accounts for its own looks.
    """
    seen: list[int] = []
    peeks: list[int] = []
    for event in record.history:
        if event.what == "look":
            seen.append(event.n_seeds)
            continue
        peeks += [n for n in seen if n < event.n_seeds]
        seen = []
        if event.what == "until decided":
            break
    return tuple(dict.fromkeys(peeks))


@cache
def false_positive_rate(n_arms: int, looks: tuple[int, ...]) -> float:
    """Simulate how often at least one arm is called better or worse at one of several looks, if none differs.

    `looks` are numbers of seeds, and verdicts are those of a fixed number of seeds. The numbers come from a fixed
    generator. More than `MOST_ARMS` arms count as that many, and so do seeds.
    """
    n_arms, looks = min(n_arms, MOST_ARMS), tuple(min(n, MOST_SEEDS) for n in looks if n > 1)
    if not looks:
        return 0.0
    rng = np.random.default_rng([SEED, n_arms])
    scatter = np.exp(SPREAD * rng.standard_normal((STUDIES, n_arms + 1, 1)))
    losses = scatter * rng.standard_normal((STUDIES, n_arms + 1, max(looks)))
    differences = losses[:, 1:] - losses[:, :1]
    is_wrong = np.zeros(STUDIES, bool)
    for n in dict.fromkeys(looks):
        known = differences[..., :n]
        family = make_family(known.mean(axis=-1), known.var(axis=-1, ddof=1), np.full(n_arms, float(n)))
        width = np.maximum(family.half_width(single_level(n_arms)), ROUNDING)
        is_wrong |= (np.abs(family.mean) > width).any(axis=-1)
    return float(is_wrong.mean())
