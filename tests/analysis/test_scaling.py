"""Predictions for the next level of an axis, and scaling laws: known answers, and the coverage of the intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from by_hand import make_results, make_run
from scipy import stats

from ablate.analysis import Results
from ablate.analysis.scaling import find_predictions, find_scaling_laws, fit_power_law, predict_line
from ablate.report.report import ReportOptions, make_report
from ablate.report.sections import compose
from ablate.report.summary import summarize

SIZES = (1000, 2000, 4000, 8000)
Loss = Callable[[int, int], float]


def study(base: Loss, arm: Loss, seeds: int = 2, **record: Any) -> Results:
    """A study along four sizes: the final losses of the baseline and the arm by size and seed."""
    losses = {(kind, size): loss for kind, loss in (("base", base), ("arm", arm)) for size in SIZES}
    runs = [
        make_run(f"{kind}{size}", seed, [9.0, 9.0, 9.0, loss(size, seed)])
        for (kind, size), loss in losses.items()
        for seed in range(seeds)
    ]
    results = make_results(
        *runs,
        baseline={f"{kind}{size}": f"base{size}" for kind, size in losses},
        axes={f"{kind}{size}": {"kind": kind, "size": size} for kind, size in losses},
        n_params={f"{kind}{size}": size for kind, size in losses},
        compare_within=("size",),
    )
    arms = tuple(replace(row, flops_per_token=6 * (row.n_params or 0)) for row in results.record.arms)
    return replace(results, record=replace(results.record, arms=arms, **record))


def law(floor: float, factor: float, exponent: float) -> Loss:
    return lambda size, seed: floor + factor * (6 * size * 8000.0) ** -exponent + 0.001 * (seed - 0.5)


def test_the_prediction_interval_is_that_of_a_textbook() -> None:
    # statsmodels: OLS(y, [1, x]).fit().get_prediction([1, 4]).summary_frame() has obs_ci of one new observation
    x, y = np.array([1.0, 1, 2, 2, 3, 3]), np.array([1.1, 0.9, 2.2, 1.9, 2.8, 3.1])
    estimate, low, high = predict_line(x, y, 4.0, 1)
    fit = stats.linregress(x, y)
    s = np.sqrt(((y - fit.intercept - fit.slope * x) ** 2).sum() / 4)
    half = stats.t.ppf(0.975, 4) * s * np.sqrt(1 + 1 / 6 + (4 - 2) ** 2 / 4)
    assert (estimate, low, high) == pytest.approx((3.95, 3.95 - half, 3.95 + half))
    assert predict_line(x, y, 4.0, 4)[2] < high  # the mean of four scatters less


def test_a_power_law_without_noise_is_recovered() -> None:
    compute = np.array([1e9, 1e10, 1e11, 1e12])
    floor, factor, exponent = fit_power_law(compute, (1.7 + 20 * compute**-0.1)[None])
    assert (floor[0], factor[0], exponent[0]) == pytest.approx((1.7, 20.0, 0.1), rel=0.05)
    assert np.isnan(fit_power_law(compute, np.array([[1.0, 2.0, 3.0, 4.0]]))[2]).all()  # losses that rise


def test_the_next_size_is_predicted_and_called_an_extrapolation() -> None:
    results = study(
        lambda _size, seed: 3.0 + 0.1 * seed, lambda size, seed: 2.0 + 0.1 * seed + 0.1 * np.log2(size / 1000)
    )
    (row,) = find_predictions(results)
    assert (row.levels, row.level, row.actual, row.is_inside) == ((1000, 2000, 4000, 8000), 16000, None, None)
    assert (row.predicted, row.low, row.high) == pytest.approx((-0.6,) * 3)  # no noise: the line is exact
    report = make_report(results, ReportOptions())
    assert any("an extrapolation, 95 % prediction interval" in sentence for sentence in report.answer)
    assert {"predictions", "scaling"} <= {table.name for table in compose(report).tables}
    assert summarize(report)["predictions"][0]["level"] == 16000


def test_the_largest_level_can_be_held_out() -> None:
    def arm(size: int, seed: int) -> float:
        return 2.9 + 0.01 * seed + (0.5 if size == 8000 else 0.0)  # the gain is gone at the largest size

    results = study(lambda _size, _seed: 3.0, arm, seeds=3, predict={"axis": "size", "held_out": "largest"})
    (row,) = find_predictions(results)
    assert (row.levels, row.level, row.n_points, row.n_seeds) == ((1000, 2000, 4000), 8000, 9, 3)
    assert row.predicted == pytest.approx(-0.09) and row.actual == pytest.approx(0.41) and row.is_inside is False
    assert any(
        "which was held out, in 0 of 1 cases" in sentence for sentence in make_report(results, ReportOptions()).answer
    )


def test_the_level_that_is_held_out_is_predicted_before_it_is_trained() -> None:
    results = study(
        lambda _size, _seed: 3.0, lambda _size, seed: 2.9 + 0.01 * seed, predict={"axis": "size", "held_out": "largest"}
    )
    (scored,) = find_predictions(results)
    early = replace(results, runs=tuple(run for run in results.runs if "8000" not in run.arm))
    (row,) = find_predictions(early)
    assert (row.level, row.actual, row.is_inside) == (8000, None, None)
    assert (row.predicted, row.low, row.high) == (scored.predicted, scored.low, scored.high)
    answer = make_report(early, ReportOptions()).answer
    assert any("at size=8000 is (an extrapolation, 95 % prediction interval): arm -0.0950" in line for line in answer)


def test_a_compute_equivalent_speedup_by_hand() -> None:
    # The arm's loss at compute C is the baseline's at 2 C, so it is twice as fast at every size.
    base = law(1.5, 30.0, 0.2)
    results = study(base, lambda size, seed: base(2 * size, seed))
    of_base, of_arm = find_scaling_laws(results)
    assert (of_base.speedups, of_base.compute) == ((), "training FLOPs")
    assert (of_base.floor, of_base.exponent) == pytest.approx((1.5, 0.2), rel=0.05)
    for ratio, low, high in filter(None, of_arm.speedups):
        assert ratio == pytest.approx(2.0, rel=0.02) and low <= ratio <= high
    assert len(of_arm.speedups) == 4 and of_arm.exponent_interval is not None


def test_losses_that_rise_have_no_law_and_few_levels_none_either() -> None:
    rising = study(lambda size, _seed: 3.0 + size / 1e4, lambda _size, _seed: 3.0)
    assert [bool(found.note) for found in find_scaling_laws(rising)] == [True, True]
    flat = replace(
        rising, record=replace(rising.record, arms=tuple(replace(a, n_params=9) for a in rising.record.arms))
    )
    assert find_scaling_laws(flat) == () and find_predictions(flat) == ()  # not an axis of sizes


def test_prediction_intervals_hold_their_level() -> None:
    rng = np.random.default_rng(0)
    n_hits, n = 0, 2000
    x = np.repeat(np.log(SIZES[:3]), 3)
    for _ in range(n):
        _, low, high = predict_line(x, 0.1 * x + rng.normal(size=9), np.log(8000), 3)
        n_hits += low <= 0.1 * np.log(8000) + rng.normal(size=3).mean() <= high
    assert 0.935 < n_hits / n < 0.965
