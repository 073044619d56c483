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
    now, seen = _list_looks(record)
    return tuple(n for n in seen if n < now)


def find_larger_looks(record: StudyRecord) -> tuple[int, ...]:
    """The numbers of seeds with which results were looked at before the study went back to fewer of them."""
    now, seen = _list_looks(record)
    return tuple(n for n in seen if n > now)


def _list_looks(record: StudyRecord) -> tuple[int, list[int]]:
    """The number of seeds that was declared last, and those of the looks before that and before any rule."""
    declared = [place for place, event in enumerate(record.history) if event.what != "look"]
    if not declared:
        return 0, []
    rules = (place for place in declared if record.history[place].what == "until decided")
    before = record.history[: next(rules, declared[-1])]
    seen = dict.fromkeys(event.n_seeds for event in before if event.what == "look")
    return record.history[declared[-1]].n_seeds, [*seen]


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
