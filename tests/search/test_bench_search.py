"""The bench of searches, at a size that only shows that it measures what it says."""

from __future__ import annotations

from rich.console import Console

from ablate.search.bench import compare_samplers, measure_overhead


def test_samplers_are_compared_at_equal_trials_by_losses_trained_anew() -> None:
    results = {result.sampler: result for result in compare_samplers(3, 2, 2, Console(quiet=True))}
    assert list(results) == ["TPESampler", "RandomSampler", "defaults"]
    assert len(results["TPESampler"].confirmed) == 2
    assert len(set(results["TPESampler"].confirmed)) == 2  # the repetitions draw other settings
    assert all(1 < loss < 10 for result in results.values() for loss in result.confirmed)


def test_the_overhead_is_told_beside_optuna_alone() -> None:
    cost = measure_overhead(5)
    assert 0 < cost.optuna_ms < 1000
    assert 0 < cost.ablate_ms < 1000
