"""Ranges of ranks: nothing stands above anything else without a verdict, and the ranges hold the true ranks."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.records.ranking import rank


def draw(means: list[float], n_seeds: int, rng: np.random.Generator, *, paired: bool = True) -> list[dict[int, float]]:
    """Values of entries by seed. Unpaired entries have seeds of their own."""
    return [
        {seed + (0 if paired else 100 * place): mean + value for seed, value in enumerate(rng.normal(0, 1, n_seeds))}
        for place, mean in enumerate(means)
    ]


def test_without_a_verdict_all_share_all_ranks() -> None:
    ranking = rank(draw([0.0, 0.1, 0.2], 3, np.random.default_rng(0)))
    assert [ranking.range_of(entry) for entry in range(3)] == [(1, 3)] * 3
    assert all(not pair.is_clear for pair in ranking.pairs)


@pytest.mark.parametrize("paired", [True, False])
def test_clear_differences_give_exact_ranks_in_any_order(paired: bool) -> None:
    ranking = rank(draw([200.0, 0.0, 100.0], 5, np.random.default_rng(1), paired=paired))
    assert ranking.order == (1, 2, 0)
    assert [ranking.range_of(entry) for entry in ranking.order] == [(1, 1), (2, 2), (3, 3)]
    assert ranking.better_than(1) == [2, 0]


def test_an_entry_between_two_others_ties_with_both() -> None:
    rng = np.random.default_rng(3)
    ranking = rank(draw([0.0, 3.0, 6.0], 4, rng))
    low, middle, high = (ranking.range_of(entry) for entry in range(3))
    assert (low, middle, high) == ((1, 2), (1, 3), (2, 3))


def test_intervals_agree_with_p_values() -> None:
    for seed in range(20):
        ranking = rank(draw([0.0, 1.0, 4.0, 8.0], 4, np.random.default_rng(seed)))
        for pair in ranking.pairs:
            assert pair.low is not None
            assert pair.is_clear == (pair.low > 0)


def test_one_run_decides_nothing() -> None:
    ranking = rank([{0: 1.0}, {0: 2.0, 1: 2.1}])
    assert [ranking.range_of(entry) for entry in range(2)] == [(1, 2)] * 2
    assert ranking.pairs[0].p_value is None


@pytest.mark.parametrize(("n_entries", "n_seeds"), [(3, 3), (6, 5)])
def test_ranges_hold_the_true_ranks_in_95_percent_of_cases(n_entries: int, n_seeds: int) -> None:
    """Equal entries are the worst case: any clear pair is an error."""
    rng, n_studies = np.random.default_rng(5), 1000
    wrong = sum(
        any(pair.is_clear for pair in rank(draw([0.0] * n_entries, n_seeds, rng)).pairs) for _ in range(n_studies)
    )
    assert wrong / n_studies < 0.06
