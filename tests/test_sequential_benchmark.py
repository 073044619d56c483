"""Looks keep their error rates and save runs in simulated studies, and the page has the benchmark's tables."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from benchmarks.families import SCENARIOS
from benchmarks.sequential import MOST_ERRORS, START, measure_costs, measure_errors

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"

N = 4_000
SLACK = 3 * math.sqrt(MOST_ERRORS * (1 - MOST_ERRORS) / N)  # three standard errors of a rate


@pytest.mark.parametrize(("n_arms", "design"), [(1, (3, 12)), (2, (3, 6)), (3, (3, 6))])
def test_looks_keep_their_error_rates_at_every_spread(n_arms: int, design: tuple[int, int]) -> None:
    for scenario in SCENARIOS:
        rates = measure_errors(n_arms, design, scenario, N, seed=11)
        assert 0 < rates.family <= MOST_ERRORS + SLACK, (scenario, rates)
        assert rates.equivalence <= MOST_ERRORS + SLACK, (scenario, rates)


def test_looks_save_a_third_of_the_runs_of_a_fixed_design_with_as_many_right_verdicts() -> None:
    (cost,) = measure_costs(4, 0.0, 1.0, 1_000, at_mosts=(30,), seed=11)
    assert cost.saved >= 0.35
    assert cost.seeds[3] < cost.seeds[2] < cost.seeds[1] < cost.baseline
    assert cost.joint >= 0.95
    assert abs(cost.bias[0]) < 0.05 < cost.bias[1] + 0.03  # away from zero


def test_the_page_has_the_tables_of_20000_simulations_and_every_rate_passes() -> None:
    _, found, tables = PAGE.read_text().partition(START)
    assert found and "20,000 simulated studies per cell" in tables and "Every rate is at most 0.05" in tables
    rows = re.findall(r"^\| 4 \| 0 \| 1 \| 30 \|.*\| (\d+) % \|$", tables, re.MULTILINE)
    assert [int(saved) >= 35 for saved in rows] == [True]
