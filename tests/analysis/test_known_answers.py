"""The numbers that another package computes for the same data: statsmodels 0.15.0, run once."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.analysis.families import Family, adjust_sidak, make_family
from ablate.analysis.intervals import holm
from ablate.analysis.power import power_of
from ablate.analysis.scaling import predict_line
from ablate.analysis.verdicts import p_of_equivalence

GAPS = np.array([0.004, -0.002, 0.003, 0.001, 0.0015])
P_VALUES = [0.01, 0.2, 0.03, 0.004]


def one_arm() -> Family:
    return make_family(GAPS[None].mean(axis=-1), GAPS[None].var(axis=-1, ddof=1), np.array([5.0]))


def test_equivalence_is_that_of_ttost_paired() -> None:
    # ttost_paired(GAPS, zeros, -margin, margin)[0]
    assert p_of_equivalence(one_arm(), 0.01) == pytest.approx([0.0005766024561349891], rel=1e-9)
    assert p_of_equivalence(one_arm(), 0.002) == pytest.approx([0.3255619222715253], rel=1e-9)


def test_adjusted_p_values_are_those_of_multipletests() -> None:
    expected = [0.03940399, 0.5904, 0.11470719, 0.015904255744]  # method="sidak"
    assert adjust_sidak(np.array(P_VALUES), 4) == pytest.approx(expected)
    assert holm(list(P_VALUES)) == pytest.approx([0.03, 0.2, 0.06, 0.016])  # method="holm"


def test_a_prediction_interval_is_that_of_get_prediction() -> None:
    # OLS(y, add_constant(x)).fit().get_prediction([[1, 4]]).summary_frame(): mean, obs_ci_lower, obs_ci_upper
    x, y = np.array([1.0, 1, 2, 2, 3, 3]), np.array([1.1, 0.9, 2.2, 1.9, 2.8, 3.1])
    assert predict_line(x, y, 4.0, 1) == pytest.approx((3.95, 3.249554935018245, 4.650445064981754))


def test_power_is_that_of_ttestpower() -> None:
    # TTestPower().power(0.8, 6, 0.05) counts both directions; the wrong one adds less than 0.001
    power = power_of(np.array(0.8), np.array(1 / np.sqrt(6)), np.array(5.0))
    assert float(power) == pytest.approx(0.35617376715808463, abs=1e-3)
