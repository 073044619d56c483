"""Simulated families of arms, and how often the verdicts on them are wrong or find a difference.

A simulated study has arms and one shared baseline, all trained with the same seeds. The scatter of an arm between seeds
is exp(spread z) with a standard normal z, drawn for each arm of each study. Losses of one seed are correlated between
arms, which cancels in paired differences only if the arms scatter alike. In some scenarios every second arm has lost a
seed. Arms of an earlier study, which has a baseline of its own, may lend their variances. All numbers come from a fixed
generator, and each cell of a table has its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from ablate.analysis.curve_columns import Floats
from ablate.analysis.families import Earlier, Family, make_family, single_level
from ablate.analysis.intervals import welch_error
from ablate.analysis.power import detectable_difference
from ablate.analysis.verdicts import ALPHA

SPREADS, CORRELATIONS = (0.0, 0.5, 1.0), (0.0, 0.6)
EFFECT = 3.0  # standard deviations of a paired difference of two arms with the median scatter
MARGINS = (1.0, 2.0, 4.0)  # in the same unit, for equivalence
DIVERGED = 0.2
EARLIER_SEEDS = 3  # of an earlier study: with more, its arms would lend less noise

MOST_ERRORS, COVERAGE, JOINT = 0.065, (0.93, 0.97), 0.94
"""What a method must keep in every cell: the family-wise error rate, and the coverage of plain and joint intervals."""

MOST_FALSE_EQUIVALENCE = 0.0545
"""5 %, and four standard errors of 20,000 simulations of one arm: the worst of 1,000 cells is among the numbers."""


@dataclass(frozen=True)
class Scenario:
    """How arms scatter: the spread of the scatter, the correlation within a seed, and which runs are lost.

    With `has_losses`, every second arm lost a seed. With `diverges`, each run diverges with probability `DIVERGED`, the
    baseline's as well, apart from those of the first two seeds.
    """

    spread: float
    correlation: float = 0.0
    has_losses: bool = False
    diverges: bool = False

    @property
    def unit(self) -> float:
        """The standard deviation of a paired difference of two arms with the median scatter."""
        return float(np.sqrt(2 * (1 - self.correlation)))


SCENARIOS = (
    *(Scenario(spread, correlation) for correlation in CORRELATIONS for spread in SPREADS),
    *(Scenario(spread, has_losses=True) for spread in SPREADS),
)
EVERY_SCENARIO = (*SCENARIOS, *(Scenario(spread, diverges=True) for spread in SPREADS))


@dataclass(frozen=True, eq=False)
class Studies:
    """Simulated studies without any true difference: statistics of paired differences [study, arm].

    `n_pairs` is [arm], or [study, arm] if runs diverge.

    `true_variance` [study] is that of a paired difference of the last arm. `earlier` has the arms of earlier studies.
    """

    differences: NDArray[np.float32]
    true_variance: Floats
    mean: Floats
    variance: Floats
    n_pairs: Floats
    earlier: Earlier | None

    @property
    def family(self) -> Family:
        """The family that a report computes."""
        return make_family(self.mean, self.variance, self.n_pairs, self.earlier)


@dataclass(frozen=True)
class Cell:
    """Rates over simulated studies.

    The joint coverage of simultaneous intervals is 1 - `error`, because a true difference shifts mean and interval.
    `false_equivalence` is the highest over all margins: how often an arm is called equivalent that differs by exactly
    a margin much wider than its interval.
    """

    n_arms: int
    n_seeds: int
    scenario: Scenario
    error: float
    coverage: float
    false_equivalence: float
    power: float
    holm_power: float

    @property
    def passes(self) -> bool:
        low, high = COVERAGE
        is_rare = self.error <= min(MOST_ERRORS, 1 - JOINT) and self.false_equivalence <= MOST_FALSE_EQUIVALENCE
        return is_rare and low <= self.coverage <= high


def simulate(n_arms: int, n_seeds: int, scenario: Scenario, n: int, seed: int, n_earlier: int = 0) -> Studies:
    """Draw `n` studies. Arms that lose a seed keep at least two."""
    rng = np.random.default_rng(
        [seed, n_arms, n_seeds, EVERY_SCENARIO.index(scenario), *([n_earlier] if n_earlier else [])]
    )
    differences, scatter = _draw(rng, n, n_arms, n_seeds, scenario)
    earlier = None
    if n_earlier:
        others, _ = _draw(rng, n, n_earlier, EARLIER_SEEDS, scenario)
        earlier = Earlier(others.var(axis=-1, ddof=1).astype(np.float64), np.full(n_earlier, float(EARLIER_SEEDS)))
    n_pairs = np.full(n_arms, float(n_seeds))
    mean, variance = (x.astype(np.float64) for x in (differences.mean(axis=-1), differences.var(axis=-1, ddof=1)))
    if scenario.has_losses and n_seeds > 2:
        n_pairs[::2] -= 1
        fewer = differences[:, ::2, 1:]
        mean[:, ::2], variance[:, ::2] = fewer.mean(axis=-1), fewer.var(axis=-1, ddof=1)
    if scenario.diverges:
        is_lost = rng.random((n, n_arms + 1, n_seeds)) < DIVERGED
        is_lost[..., :2] = False
        kept = ~(is_lost[:, 1:] | is_lost[:, :1])
        n_pairs = kept.sum(axis=-1).astype(np.float64)
        mean = np.where(kept, differences, 0).sum(axis=-1) / n_pairs
        gaps = np.where(kept, differences - mean[..., None], 0)
        variance = (gaps**2).sum(axis=-1, dtype=np.float64) / (n_pairs - 1)
    last, base = (scatter[:, place, 0].astype(np.float64) for place in (-1, 0))
    true_variance = last**2 + base**2 - 2 * scenario.correlation * last * base
    return Studies(differences, true_variance, mean, variance, n_pairs, earlier)


def _draw(
    rng: np.random.Generator, n: int, n_arms: int, n_seeds: int, scenario: Scenario
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Draw paired differences [study, arm, seed] and the scatter [study, 1 + arm, 1] of the baseline and the arms.

    Losses are float32, which draws twice as fast.
    """

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal((n, *shape), dtype=np.float32)

    scatter = np.exp(np.float32(scenario.spread) * draw(n_arms + 1, 1))
    losses = np.float32(np.sqrt(1 - scenario.correlation)) * draw(n_arms + 1, n_seeds)
    if scenario.correlation:
        losses += np.float32(np.sqrt(scenario.correlation)) * draw(1, n_seeds)
    losses *= scatter
    return losses[:, 1:] - losses[:, :1], scatter


def measure(n_arms: int, n_seeds: int, scenario: Scenario, n: int, seed: int, n_earlier: int = 0) -> Cell:
    """Measure the rates of one cell with the functions that reports use."""
    studies = simulate(n_arms, n_seeds, scenario, n, seed, n_earlier)
    family = studies.family
    found = find_rates(family, scenario)
    return Cell(
        n_arms=n_arms,
        n_seeds=n_seeds,
        scenario=scenario,
        error=found.error,
        coverage=found.coverage,
        false_equivalence=_find_false_equivalence(family),
        power=found.power,
        holm_power=_find_holm_power(studies, EFFECT * scenario.unit),
    )


@dataclass(frozen=True)
class Rates:
    """The family-wise error rate, the coverage of plain intervals, and the power for an effect of the last arm."""

    error: float
    coverage: float
    power: float


def find_rates(family: Family, scenario: Scenario) -> Rates:
    """Count the intervals that exclude 0, which is the same as a p-value below 0.05 and faster."""
    size, width = np.abs(family.mean), family.half_width(single_level(family.n_arms))
    moved = np.abs(family.mean[:, -1] + EFFECT * scenario.unit)
    return Rates(
        error=float((size > width).any(axis=-1).mean()),
        coverage=float((size <= family.half_width()).mean()),
        power=float((moved > width[:, -1]).mean()),
    )


def _find_false_equivalence(family: Family) -> float:
    """Return how often an arm that differs by exactly a wide margin is called equivalent.

    Its 90 % interval is then on the inner side of that margin. Both sides are alike, so half of the 90 % intervals that
    miss the truth are. With a narrower margin, the other side can only prevent it.
    """
    tested = replace(family, df=family.df if family.equivalence_df is None else family.equivalence_df)
    return float((np.abs(tested.mean) > tested.half_width(1 - 2 * ALPHA)).mean() / 2)


def _find_holm_power(studies: Studies, effect: float) -> float:
    """Return how often paired t tests with Holm's method find an effect of the last arm, without lost seeds.

    Only the arm's own p-value counts, and how many of the others are below it and significant themselves.
    """
    df = studies.differences.shape[-1] - 1.0
    mean, variance = studies.differences.mean(axis=-1), studies.differences.var(axis=-1, ddof=1)
    mean[:, -1] += np.float32(effect)
    with np.errstate(divide="ignore"):  # two float32 differences can be equal
        t = np.abs(mean) / np.sqrt(variance / np.float32(df + 1))
    others, mine = -np.sort(-t[:, :-1], axis=-1), t[:, -1]
    n = t.shape[-1]
    critical = stdtrit(df, 1 - ALPHA / 2 / np.arange(n, 0, -1))  # of the largest t, of the second, and so on
    ahead = (others > mine[:, None]).sum(axis=-1)
    passed = np.logical_and.accumulate(np.pad(others > critical[:-1], ((0, 0), (1, 0)), constant_values=True), axis=-1)
    is_reached = np.take_along_axis(passed, ahead[:, None], axis=-1)[:, 0]
    return float((is_reached & (mine > critical[ahead])).mean())


def measure_unmatched(n_arms: int, n_seeds: int, n: int, seed: int) -> Rates:
    """Measure Welch's t, which is for arms and baselines that share no seed, at a spread of 0.5."""
    rng = np.random.default_rng([seed, n_arms, n_seeds])
    scatter = np.exp(0.5 * rng.standard_normal((n, n_arms + 1, 1)))
    losses = scatter * rng.standard_normal((n, n_arms + 1, n_seeds))
    arms, baseline = losses[:, 1:], losses[:, :1]
    error, df = welch_error(arms, np.broadcast_to(baseline, arms.shape))
    return find_rates(Family(arms.mean(axis=-1) - baseline.mean(axis=-1), error, df), SCENARIOS[1])


def measure_plan(n_arms: int, n_seeds: int, spread: float, n: int, seed: int) -> float:
    """Return how often the difference is found that `detectable_difference` promises to find in 80 % of studies."""
    scenario = Scenario(spread)
    studies = simulate(n_arms, n_seeds, scenario, n, seed)
    family = studies.family
    # each study plans with the true scatter of its last arm and the baseline
    sd = np.sqrt(studies.true_variance)
    moved = family.mean[:, -1] + sd * detectable_difference(1.0, n_arms, n_seeds)
    return float((moved > family.half_width(single_level(n_arms))[:, -1]).mean())
