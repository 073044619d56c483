"""What a study with `until: decided` costs: at most, and on average over studies with a mix of differences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from ablate.analysis.simulated_looks import take_looks
from ablate.plan import Plan

EFFECTS = (0.0, 1.0, 2.0, 4.0)
"""The true differences of the simulated arms, in standard deviations of a paired difference."""

STUDIES, SEED = 2_000, 0


@dataclass(frozen=True)
class Seeds:
    """The mean numbers of seeds of an arm and of its baseline."""

    arm: float
    baseline: float


@cache
def expect_seeds(n_arms: int, at_least: int, at_most: int, margin: float | None) -> Seeds:
    """Simulate studies with true differences of `EFFECTS` in equal parts.

    `margin` is the smallest effect in standard deviations of a paired difference; None if it does not exist or is
    not known. The numbers come from a fixed generator.
    """
    rng = np.random.default_rng([SEED, n_arms])
    losses = rng.standard_normal((STUDIES, n_arms + 1, at_most))
    truth = rng.choice(EFFECTS, (STUDIES, n_arms, 1))
    ends = take_looks((losses[:, 1:] - losses[:, :1]) / np.sqrt(2) + truth, at_least, margin)
    return Seeds(float(ends.seeds.mean()), float(ends.baseline_seeds.mean()))


def expect_runs(plan: Plan, margin: float | None) -> dict[str, float]:
    """The mean number of runs of each arm of a plan with `until: decided`, by name."""
    rule = plan.until_decided
    assert rule is not None
    families: dict[str, list[str]] = {}
    for arm in plan.arms:
        families.setdefault(arm.baseline, []).append(arm.name)
    runs: dict[str, float] = {}
    for baseline, members in families.items():
        others = [name for name in members if name != baseline]
        if not others:
            runs[baseline] = float(rule.at_least)
            continue
        seeds = expect_seeds(len(others), rule.at_least, rule.at_most, margin)
        runs |= dict.fromkeys(others, seeds.arm) | {baseline: seeds.baseline}
    return runs
