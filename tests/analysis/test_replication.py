"""The rule by which fresh seeds confirm or refute a published verdict, case by case and by simulation."""

from __future__ import annotations

from typing import Any

import pytest

from ablate.analysis.replication import compare_sizes, judge_replication
from ablate.tracking.verifications import Measured
from benchmarks.replication import measure


def measured(verdict: Any, low: float | None, high: float | None, *, is_small: bool = False) -> Measured:
    estimate = 0.0 if low is None or high is None else (low + high) / 2
    return Measured(
        verdict=verdict, is_small=is_small, estimate=estimate, low=low, high=high, n_pairs=3, method="paired t"
    )


BETTER = measured("better", -0.09, -0.03)


@pytest.mark.parametrize(
    ("published", "fresh", "outcome", "size"),
    [
        (BETTER, measured("better", -0.08, -0.04), "confirmed", "as published"),
        (BETTER, measured("better", -0.02, -0.01), "confirmed", "smaller"),
        (BETTER, measured("better", -0.20, -0.10), "confirmed", "larger"),
        (BETTER, measured("undecided", -0.05, 0.02), "undecided", "as published"),
        (BETTER, measured("undecided", -0.02, 0.02), "refuted", "smaller"),
        (BETTER, measured("equivalent", -0.02, 0.02, is_small=True), "refuted", "smaller"),
        (BETTER, measured("worse", 0.01, 0.05), "refuted", "smaller"),
        (measured("worse", 0.03, 0.09), measured("better", -0.05, -0.01), "refuted", "smaller"),
        (BETTER, measured("undecided", None, None), "undecided", "unknown"),
        (
            measured("equivalent", -0.005, 0.005),
            measured("equivalent", -0.006, 0.004, is_small=True),
            "confirmed",
            None,
        ),
        (measured("equivalent", -0.005, 0.005), measured("better", -0.004, -0.001, is_small=True), "confirmed", None),
        (measured("equivalent", -0.005, 0.005), measured("undecided", -0.02, 0.02), "undecided", None),
        (measured("equivalent", -0.005, 0.005), measured("worse", 0.008, 0.020), "undecided", None),
        (measured("equivalent", -0.005, 0.005), measured("worse", 0.011, 0.020), "refuted", None),
        (measured("undecided", -0.01, 0.03), measured("worse", 0.01, 0.02), "undecided", "as published"),
        (measured("undecided", -0.01, 0.03), measured("worse", 0.04, 0.06), "refuted", "larger"),
    ],
)
def test_the_rule(published: Measured, fresh: Measured, outcome: str, size: str | None) -> None:
    judgment = judge_replication(published, fresh, margin=0.01)
    assert judgment.outcome == outcome, judgment.reason
    assert size in (None, judgment.size)


def test_nothing_is_confirmed_by_the_runs_that_did_not_diverge() -> None:
    fresh = measured("better", -0.08, -0.04)
    assert judge_replication(BETTER, fresh, n_diverged=1).outcome == "undecided"
    assert judge_replication(BETTER, None).outcome == "undecided"
    assert compare_sizes(BETTER, measured("undecided", None, None)) == "unknown"


def test_an_effect_that_is_there_is_confirmed_and_hardly_ever_refuted() -> None:
    rates = measure("worse", 2.0, 2.0, 5, 5, 20_000)
    assert rates.confirmed > 0.85
    assert rates.refuted < 0.002
    assert measure("worse", 0.1, 0.1, 5, 5, 20_000).refuted < 0.08  # published by luck, so its interval is wrong


def test_an_effect_that_is_not_there_is_refuted_and_hardly_ever_confirmed() -> None:
    rates = measure("worse", 2.0, 0.0, 10, 10, 20_000)
    assert rates.refuted > 0.8
    assert rates.confirmed < 0.04  # half of the error rate of 5 %, because the other half has the other sign


def test_equivalence_is_refuted_only_by_differences_beyond_the_margin() -> None:
    there = measure("equivalent", 0.0, 0.0, 10, 10, 4_000, margin=1.0)
    assert there.confirmed > 0.7
    assert there.refuted < 0.01
    assert measure("equivalent", 0.0, 1.0, 10, 10, 4_000, margin=1.0).confirmed < 0.07
    assert measure("equivalent", 0.0, 3.0, 10, 10, 4_000, margin=1.0).refuted > 0.9
