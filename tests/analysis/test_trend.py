"""Growth of a speedup along a numeric axis: known answers, coverage, and the effect of censoring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from by_hand import STEPS, make_results, make_run
from scipy import stats

from ablate.analysis import Results
from ablate.analysis.trend import Trend, find_trends

COVERAGE = (0.93, 0.97)


def study(factors: Mapping[int, Sequence[float]], **changes: object) -> Results:
    """An arm with the given speedups over its baseline, per level and seed. A doubling of the steps is
    worth 1 nat, so the crossing is exact. An arm with a factor below 1 never crosses."""
    runs, axes, baseline = [], {}, {}
    for level, by_seed in factors.items():
        for kind in ("base", "arm"):
            name = f"{kind}-{level}"
            axes[name] = {"kind": kind, "context_length": level}
            baseline[name] = f"base-{level}"
            for seed, factor in enumerate(by_seed):
                speed = factor if kind == "arm" else 1.0
                runs.append(make_run(name, seed, [4 - math.log2(step * speed / 100) for step in STEPS]))
    return make_results(*runs, baseline=baseline, axes=axes, compare_within=("context_length",), **changes)


def pick(results: Results, axis: str = "tokens") -> Trend:
    (trend,) = [trend for trend in find_trends(results) if trend.axis == axis]
    return trend


def test_two_levels_are_the_paired_t_by_hand() -> None:
    trend = pick(study({256: [1.1, 1.3, 1.2], 1024: [1.6, 1.5, 1.9]}))
    differences = np.log([1.6 / 1.1, 1.5 / 1.3, 1.9 / 1.2])
    half = stats.t.ppf(0.975, 2) * differences.std(ddof=1) / math.sqrt(3)
    assert trend.growth == pytest.approx(math.exp(differences.mean()))
    assert (trend.low, trend.high) == (
        pytest.approx(math.exp(differences.mean() - half)),
        pytest.approx(math.exp(differences.mean() + half)),
    )
    assert trend.p_value == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert (trend.family, trend.along, trend.levels, trend.n_points) == (
        {"kind": "arm"},
        "context_length",
        (256, 1024),
        6,
    )
    assert trend.arms == ("arm-256", "arm-1024")


def test_three_levels_on_a_line_have_its_growth_and_one_off_it_widens_the_interval() -> None:
    exact = pick(study({4096: [1.8, 2.4], 256: [1.2, 1.6], 1024: [1.2 * 1.5**0.5, 1.6 * 1.5**0.5]}))
    assert (exact.growth, exact.low, exact.levels) == (pytest.approx(1.5), pytest.approx(1.5), (256, 1024, 4096))
    bent = pick(study({256: [1.2, 1.6], 1024: [1.2, 1.6], 4096: [1.8, 2.4]}))
    assert bent.growth == pytest.approx(1.5)
    assert bent.low < 1.4


def test_the_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    n_studies, hits = 400, 0
    for _ in range(n_studies):
        block = rng.normal(0, 0.1, 2)
        noisy = {
            level: 2.0 * (level / 256) ** 0.25 * np.exp(block + rng.normal(0, 0.1, 2)) for level in (256, 1024, 4096)
        }
        trend = pick(study(noisy), "steps")
        hits += trend.low <= 2.0 <= trend.high
    assert COVERAGE[0] <= hits / n_studies <= COVERAGE[1]


@pytest.mark.parametrize(
    ("factors", "bound", "low", "high"),
    [
        ({256: [0.8, 0.9], 1024: [2.0, 2.0]}, "at_least", 2.0, None),  # at most 1x, then 2x
        ({256: [2.0, 2.0], 1024: [0.8, 2.0]}, "at_most", None, 0.5**0.5),
        ({256: [0.8, 2.0], 1024: [2.0, 0.8]}, "not_determined", None, None),
    ],
)
def test_what_never_arrived_leaves_a_bound(factors, bound, low, high) -> None:
    trend = pick(study(factors))
    assert (trend.growth, trend.bound) == (None, bound)
    assert (trend.low, trend.high) == (low and pytest.approx(low), high and pytest.approx(high))
    assert (trend.p_value is None) == (bound == "not_determined")


def test_a_bound_from_noisy_numbers_is_not_beyond_chance() -> None:
    trend = pick(study({256: [1.1, 4.0, 1.05], 1024: [0.9, 0.8, 0.9]}))
    assert (trend.bound, trend.high < 1) == ("at_most", True)
    assert trend.p_value > 0.05


def test_the_difference_of_losses_is_known_where_the_speed_up_is_not() -> None:
    trend = pick(study({256: [0.8, 0.9, 0.5], 1024: [0.4, 0.6, 0.3]}))
    assert (trend.growth, trend.bound) == (None, "not_determined")
    changes = -np.log2([0.4 / 0.8, 0.6 / 0.9, 0.3 / 0.5])  # 1 nat per doubling
    half = stats.t.ppf(0.975, 2) * changes.std(ddof=1) / math.sqrt(3)
    assert trend.loss_change == pytest.approx(changes.mean())
    assert (trend.loss_low, trend.loss_high) == (
        pytest.approx(changes.mean() - half),
        pytest.approx(changes.mean() + half),
    )


def test_a_censored_level_in_the_middle_is_left_out() -> None:
    trend = pick(study({256: [1.2, 1.6], 1024: [0.5, 0.5], 4096: [1.8, 2.4]}))
    assert (trend.growth, trend.bound, trend.n_points) == (pytest.approx(1.5), None, 4)


def test_one_seed_has_no_interval_and_one_level_no_growth() -> None:
    trend = pick(study({256: [1.2], 1024: [1.8]}))
    assert (trend.growth, trend.low, trend.note) == (pytest.approx(1.5), None, "no interval: one seed")
    assert find_trends(study({256: [1.2, 1.3]})) == ()
    results = study({256: [1.2], 1024: [1.8]})
    words = {
        arm.arm: {**arm.axes, "context_length": f"length {arm.axes['context_length']}"} for arm in results.record.arms
    }
    baseline = {arm.arm: arm.baseline for arm in results.record.arms}
    assert (
        find_trends(make_results(*results.runs, baseline=baseline, axes=words, compare_within=("context_length",)))
        == ()
    )


def test_seeds_that_do_not_match_are_told() -> None:
    results = study({256: [1.2, 1.3], 1024: [1.8, 1.9]})
    runs = [
        run if run.arm != "arm-1024" else make_run(run.arm, run.seed + 5, [4.0, 3.0, 2.0, 1.0]) for run in results.runs
    ]
    axes = {arm.arm: arm.axes for arm in results.record.arms}
    baseline = {arm.arm: arm.baseline for arm in results.record.arms}
    trend = pick(make_results(*runs, baseline=baseline, axes=axes, compare_within=("context_length",)))
    assert (trend.growth, trend.note) == (None, "context_length=1024: the seeds do not match")
