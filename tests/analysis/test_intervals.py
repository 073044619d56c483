import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ablate.analysis.intervals import holm, paired_t, welch_t

N_SIMULATIONS = 20_000
COVERAGE = (0.93, 0.97)  # tolerated coverage for a nominal 95 %
FALSE_POSITIVES = (0.03, 0.07)  # tolerated error rate for a nominal 5 %


def log_costs(rng, n, correlation, true_ratio=1.0):
    """Log costs of baseline and arm [simulation, seed]: lognormal noise of 10 %, correlated within a seed."""
    shared = rng.standard_normal((N_SIMULATIONS, n)) * math.sqrt(correlation)
    own = rng.standard_normal((2, N_SIMULATIONS, n)) * math.sqrt(1 - correlation)
    return 0.1 * (shared + own[0]), 0.1 * (shared + own[1]) - math.log(true_ratio)


def test_paired_interval_by_hand():
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(2, 0.975) = 4.302653
    estimate = paired_t(np.array([1.0, 2.0, 3.0]))
    half = 4.302653 / math.sqrt(3)
    assert [estimate.mean, estimate.low, estimate.high] == pytest.approx([2.0, 2 - half, 2 + half], rel=1e-6)
    assert estimate.p_value == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(2 + 12))  # t(2) has a closed form


def test_welch_interval_by_hand():
    # variances 1 and 4, three runs each: se^2 = 5/3, df = (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 50/17
    estimate = welch_t(np.array([4.0, 5.0, 6.0]), np.array([0.0, 2.0, 4.0]))
    assert estimate.mean == 3.0
    t, df = 3.0 / math.sqrt(5 / 3), 50 / 17
    assert estimate.p_value == pytest.approx(2 * stats.t.sf(t, df))
    assert estimate.high - 3.0 == pytest.approx(stats.t.ppf(0.975, df) * math.sqrt(5 / 3))


@pytest.mark.parametrize("n", range(3, 11))
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_paired_intervals_cover_95_percent(n, correlation):
    base, arm = log_costs(np.random.default_rng(n), n, correlation, true_ratio=1.3)
    estimate = paired_t(base - arm)
    covered = (estimate.low <= math.log(1.3)) & (math.log(1.3) <= estimate.high)
    assert COVERAGE[0] <= covered.mean() <= COVERAGE[1]


@pytest.mark.parametrize("n", range(3, 11))
def test_p_values_reject_a_true_null_5_percent_of_the_time(n):
    base, arm = log_costs(np.random.default_rng(100 + n), n, 0.6)
    assert FALSE_POSITIVES[0] <= (paired_t(base - arm).p_value < 0.05).mean() <= FALSE_POSITIVES[1]
    base, arm = log_costs(np.random.default_rng(200 + n), n, 0.0)
    assert FALSE_POSITIVES[0] <= (welch_t(base, arm).p_value < 0.05).mean() <= FALSE_POSITIVES[1]


def test_welch_is_conservative_where_arms_are_correlated():
    base, arm = log_costs(np.random.default_rng(0), 5, 0.6, true_ratio=1.3)
    estimate = welch_t(base, arm)
    assert ((estimate.low <= math.log(1.3)) & (math.log(1.3) <= estimate.high)).mean() > 0.98


def test_without_spread_the_interval_is_the_mean():
    estimate = paired_t(np.array([[0.5, 0.5], [0.0, 0.0]]))
    assert estimate.low.tolist() == estimate.high.tolist() == [0.5, 0.0]
    assert estimate.p_value.tolist() == [0.0, 1.0]
    assert welch_t(np.array([1.0, 1.0]), np.array([1.0, 1.0])).p_value == 1.0


def test_one_pair_gives_no_interval():
    with pytest.raises(ValueError, match="two pairs"):
        paired_t(np.array([0.5]))
    with pytest.raises(ValueError, match="either side"):
        welch_t(np.array([0.5]), np.array([0.5, 0.6]))


def test_holm_by_hand():
    # 0.01 * 3 = 0.03; 0.03 * 2 = 0.06; 0.04 * 1 = 0.04, raised to 0.06
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
    assert holm([None]) == [None]
    assert holm([0.6, 0.7]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_never_makes_a_p_value_smaller(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    assert [adjusted[i] for i in np.argsort(p_values, kind="stable")] == sorted(adjusted)
