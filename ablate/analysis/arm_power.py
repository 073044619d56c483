"""The number of seeds that each arm of a study needs to detect a difference, given the scatter of its finished runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from ablate.analysis.differences import find_differences
from ablate.analysis.noise import choose_lenders
from ablate.analysis.power import POWER, detectable_difference, seeds_needed
from ablate.analysis.results import Results


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
    """Compute the power of each arm whose scatter is known, in the order of the study."""
    known = [(row, row.sd) for row in find_differences(results) if row.sd is not None]
    sizes = Counter(row.baseline for row, _ in known)
    n_earlier = {baseline: len(choose_lenders(results, baseline)) for baseline in sizes}
    return tuple(
        ArmPower(
            arm=row.arm,
            baseline=row.baseline,
            n_seeds=row.n,
            sd=sd,
            detectable=detectable_difference(sd, sizes[row.baseline], row.n, power, n_earlier[row.baseline]),
            seeds_needed=seeds_needed(effect, sd, sizes[row.baseline], power, n_earlier[row.baseline]) if sd else 2,
        )
        for row, sd in known
    )
