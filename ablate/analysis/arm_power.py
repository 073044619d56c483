"""The number of seeds that each arm of a study needs to detect a difference, given the scatter of its finished runs."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass

from ablate.analysis.differences import find_differences
from ablate.analysis.noise import choose_lenders
from ablate.analysis.power import POWER, detectable_difference, seeds_needed
from ablate.analysis.results import Results
from ablate.analysis.spending import detectable_at_look
from ablate.study.seeds import MAX_LOOKS_SEEDS


@dataclass(frozen=True)
class ArmPower:
    """What an arm's seeds can see.

    `sd` is the standard deviation of a paired difference. `detectable` is the difference that `n_seeds` find with the
    power asked for, and `seeds_needed` how many seeds the effect asked for takes; None if it takes too many.
    """

    arm: str
    baseline: str
    n_seeds: int
    sd: float
    detectable: float
    seeds_needed: int | None


def find_power(results: Results, effect: float, power: float = POWER) -> tuple[ArmPower, ...]:
    """Compute the power of each arm whose scatter is known, in the order of the study.

    In a study with `until: decided`, an arm's seeds are those of its last look, and `seeds_needed` is the smallest
    `at_most`. Both are those of a test at the level of the look.
    """
    rule = results.record.seed_rule
    rows = [row for row in find_differences(results) if row.sd is not None]
    tested = [row.arm for row in rows] if rule is None else results.compared_arms
    sizes = Counter(map(results.baseline_of, tested))
    n_earlier = {baseline: len(choose_lenders(results, baseline)) for baseline in sizes}
    found = []
    for row in rows:
        n_seeds, sd, n_arms, n_lent = row.n_seeds or row.n, row.sd or 0.0, sizes[row.baseline], n_earlier[row.baseline]
        if rule is not None:
            detectable = detectable_at_look(sd, n_arms, rule.at_least, n_seeds, rule.at_most, power)
            needed = _find_at_most(effect, sd, n_arms, rule.at_least, power)
        else:
            detectable = detectable_difference(sd, n_arms, n_seeds, power, n_lent)
            needed = seeds_needed(effect, sd, n_arms, power, n_lent) if sd else 2
        found.append(ArmPower(row.arm, row.baseline, n_seeds, sd, detectable, needed))
    return tuple(found)


def _find_at_most(effect: float, sd: float, n_arms: int, at_least: int, power: float) -> int | None:
    """The smallest `at_most` whose last look finds an effect; None if no grid can have that many seeds."""
    found = range(at_least + 1, MAX_LOOKS_SEEDS + 1)
    place = bisect_left(found, True, key=lambda n: detectable_at_look(sd, n_arms, at_least, n, n, power) <= effect)
    return found[place] if place < len(found) else None
