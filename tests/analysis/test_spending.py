"""Alpha spending: the figures of published tables, and crossings of simulated statistics."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from ablate.analysis.spending import kept, level_at, nominal_levels, repeated_p_value, spend

ALPHA = 0.05


def boundaries(spent: np.ndarray, information: np.ndarray, sides: int = 2) -> np.ndarray:
    """The boundaries of a design as standard normal quantiles."""
    return -ndtri(np.array(nominal_levels(tuple(spent), tuple(information), sides)) / sides)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("OBrien-Fleming", (2.9626, 1.9686)),
        ("OBrien-Fleming", (3.7103, 2.5114, 1.9930)),
        ("OBrien-Fleming", (4.8769, 3.3570, 2.6803, 2.2898, 2.0310)),
        ("Pocock", (2.1570, 2.2010)),
        ("Pocock", (2.4380, 2.4268, 2.4102, 2.3966, 2.3860)),
    ],
)
def test_boundaries_are_those_of_lan_and_demets_as_gsdesign_prints_them(kind: str, told: tuple[float, ...]) -> None:
    share = np.arange(1, len(told) + 1) / len(told)
    spent = 4 * (1 - ndtr(ndtri(1 - ALPHA / 4) / np.sqrt(share)))
    if kind == "Pocock":
        spent = ALPHA * np.log(1 + (np.e - 1) * share)
    assert boundaries(spent, share) == pytest.approx(told, abs=1e-4)


@pytest.mark.parametrize(
    ("power", "k", "inflation", "expected"),
    [  # Jennison and Turnbull (2000), as the tests of gsDesign repeat them: percent of the fixed sample
        (1.0, 3, 111.7, (109.9, 103.4, 81.2, 56.5)),
        (2.0, 10, 108.1, (106.6, 99.7, 76.2, 51.0)),
        (3.0, 2, 101.0, (100.7, 98.9, 89.5, 70.7)),
    ],
)
def test_the_size_of_designs_is_the_published_one(
    power: float, k: int, inflation: float, expected: tuple[float, ...]
) -> None:
    share = np.arange(1, k + 1) / k
    z = boundaries(ALPHA * share**power, share)
    rng = np.random.default_rng(0)
    walk = rng.standard_normal((200_000, k)).cumsum(axis=1) / np.sqrt(np.arange(1, k + 1))
    drift = (ndtri(1 - ALPHA / 2) + ndtri(0.8)) * np.sqrt(share * inflation / 100)
    for factor, size in zip((0.0, 0.5, 1.0, 1.5), expected, strict=True):
        crossed = np.abs(walk + factor * drift) > z
        stop = np.where(crossed.any(axis=1), crossed.argmax(axis=1), k - 1)
        assert inflation * share[stop].mean() == pytest.approx(size, abs=0.3)
        if factor in (0.0, 1.0):
            assert crossed.any(axis=1).mean() == pytest.approx({0.0: ALPHA, 1.0: 0.8}[factor], abs=0.003)


def test_a_one_sided_design_spends_on_one_side() -> None:
    share = np.array([0.3, 0.5, 1.0])
    z = boundaries(ALPHA * share, share, sides=1)
    steps = np.random.default_rng(1).standard_normal((200_000, 3)) * np.sqrt(np.diff(share, prepend=0))
    crossed = steps.cumsum(axis=1) / np.sqrt(share) > z
    assert crossed.any(axis=1).mean() == pytest.approx(ALPHA, abs=0.002)
    assert crossed[:, :2].any(axis=1).mean() == pytest.approx(ALPHA / 2, abs=0.0015)


def test_a_look_without_new_pairs_leaves_its_share_to_the_next() -> None:
    seeds = (3, 4, 5)
    assert level_at(ALPHA, (1,), seeds[:1], 12) == 0  # one pair has no scatter
    assert level_at(ALPHA, (3, 3), seeds[:2], 12) == 0
    late = level_at(ALPHA, (3, 3, 4), seeds, 12)
    assert late == nominal_levels((ALPHA * spend(3 / 12), ALPHA * spend(5 / 12)), (3.0, 4.0))[-1]
    assert late > level_at(ALPHA, (3, 4, 5), seeds, 12)


def test_the_levels_of_looks_so_far_do_not_depend_on_later_ones() -> None:
    for n in range(3, 9):
        seeds = tuple(range(3, n + 1))
        spent = tuple(ALPHA * spend(k / 12) for k in range(3, 13))
        assert level_at(ALPHA, seeds, seeds, 12) == nominal_levels(spent, tuple(map(float, range(3, 13))))[n - 3]


def test_error_rates_and_information_must_increase() -> None:
    for spent, information in (((0.02, 0.01), (1.0, 2.0)), ((0.01, 0.02), (2.0, 2.0)), ((0.0,), (1.0,))):
        with pytest.raises(ValueError, match="must increase"):
            nominal_levels(spent, information)


def test_a_repeated_p_value_is_below_the_rate_exactly_where_the_test_is_significant() -> None:
    seeds = tuple(range(3, 8))
    for alpha in (0.05, 0.0127):
        level = level_at(kept(12) * alpha, seeds, seeds, 12)
        assert repeated_p_value(level, alpha, seeds, seeds, 12) == pytest.approx(alpha, rel=1e-9)
        assert repeated_p_value(level * 0.999, alpha, seeds, seeds, 12) < alpha
        assert repeated_p_value(level * 1.001, alpha, seeds, seeds, 12) > alpha
        assert repeated_p_value(level * 2, alpha, seeds, seeds, 12) > 1.5 * alpha
    assert repeated_p_value(1.0, 0.05, seeds, seeds, 12) == 1.0
