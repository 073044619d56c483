"""Moderated variances, simultaneous intervals, verdicts and power: known answers and invariants."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ablate.analysis import moderated
from ablate.analysis.families import Family, adjust_sidak, make_family, single_level
from ablate.analysis.intervals import paired_t
from ablate.analysis.moderated import EARNED_DF, PRIOR_DF, SEEDS, earned_df, moderate
from ablate.analysis.power import detectable_difference, find_detectable, power_of, seeds_needed
from ablate.analysis.verdicts import judge, p_of_equivalence

EULER = 0.5772156649015329


def draw_families(n_arms: int, n_pairs: int, n: int = 200, seed: int = 0) -> np.ndarray:
    """Paired differences [study, arm, pair] of arms that scatter differently around unequal means."""
    rng = np.random.default_rng(seed)
    scatter = np.exp(rng.standard_normal((n, n_arms, 1)))
    return scatter * (rng.standard_normal((n, n_arms, 1)) + rng.standard_normal((n, n_arms, n_pairs)))


def family_of(differences: np.ndarray) -> Family:
    n_pairs = np.full(differences.shape[-2], float(differences.shape[-1]))
    return make_family(differences.mean(axis=-1), differences.var(axis=-1, ddof=1), n_pairs)


def test_moderated_variance_by_hand() -> None:
    # With 2 degrees of freedom, E[log s^2] = log sigma^2 - Euler's constant, and the prior of 2 degrees of freedom
    # shifts by the same in the other direction. So the prior variance is the geometric mean of the others:
    # sqrt(4 * 16) = 8, sqrt(1 * 16) = 4, sqrt(1 * 4) = 2. The result is the mean of it and the own variance.
    shrunk = moderate(np.array([1.0, 4.0, 16.0]), np.array([2.0, 2.0, 2.0]))
    assert shrunk == pytest.approx([(8 + 1) / 2, (4 + 4) / 2, (2 + 16) / 2])
    # With 4 degrees of freedom, digamma(2) = 1 - Euler's constant, and log(4 / 2) = log 2.
    corrected = math.exp(-(1 - EULER) + math.log(2) - EULER)
    shrunk = moderate(np.array([1.0, 9.0]), np.array([4.0, 4.0]))
    assert shrunk == pytest.approx([(2 * 9 * corrected + 4) / 6, (2 * corrected + 4 * 9) / 6])


@pytest.mark.slow
def test_the_prior_variance_is_recovered_from_many_arms() -> None:
    # Variances from the model of Smyth (2004): s0^2 d0 / chi2(d0) times chi2(df) / df, with s0^2 = 3
    rng = np.random.default_rng(0)
    n, df = 200_000, 3.0
    variance = 3.0 * PRIOR_DF / rng.chisquare(PRIOR_DF, n) * rng.chisquare(df, n) / df
    shrunk = moderate(variance, np.full(n, df))
    prior = ((PRIOR_DF + df) * shrunk - df * variance) / PRIOR_DF
    assert prior == pytest.approx(np.full(n, 3.0), rel=0.02)


def test_variances_without_scatter_do_not_decide_for_the_others() -> None:
    two = np.array([2.0, 2.0, 2.0])
    assert moderate(np.zeros(3), two).tolist() == [0.0, 0.0, 0.0]
    assert (moderate(np.array([0.0, 1.0, 1.0]), two) > 1e-3).all()


def test_one_arm_is_tested_by_the_ordinary_paired_t() -> None:
    differences = draw_families(1, 3)
    estimate, expected = family_of(differences).simultaneous(), paired_t(differences)
    for name in ("mean", "low", "high", "p_value"):
        assert getattr(estimate, name) == pytest.approx(getattr(expected, name), rel=1e-12), name


def test_moderation_adds_degrees_of_freedom_only_where_the_table_says() -> None:
    assert earned_df(1, 3) == 0 and earned_df(21, 3) == 0 and earned_df(13, 11) == 0
    for n_arms, row in EARNED_DF.items():
        assert len(row) == len(SEEDS) and all(0 <= value <= PRIOR_DF for value in row)
        assert [earned_df(n_arms, n) for n in SEEDS] == list(row)
    assert earned_df(16, 4) == min(EARNED_DF[13][2], EARNED_DF[20][2])
    assert earned_df(13, 3) > 1


def test_a_moderated_interval_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moderated, "EARNED_DF", {2: (0.0, 2.0, *[0.0] * 7)})
    # three pairs; variances 1 and 4 have each other as prior: both become 2.5. Degrees of freedom: 2 + 2 = 4
    family = family_of(np.array([[0.0, 1.0, 2.0], [3.0, 5.0, 7.0]]))
    assert family.standard_error == pytest.approx([math.sqrt(2.5 / 3)] * 2)
    t = 1.0 / math.sqrt(2.5 / 3)
    p = 2 * stats.t.sf(t, 4)
    assert family.plain().p_value[0] == pytest.approx(p)
    assert family.simultaneous().p_value[0] == pytest.approx(1 - (1 - p) ** 2)
    half = stats.t.ppf(0.5 + math.sqrt(0.95) / 2, 4) * math.sqrt(2.5 / 3)
    assert family.simultaneous().high[0] == pytest.approx(1.0 + half)


def test_arms_with_fewer_pairs_keep_their_own_degrees_of_freedom() -> None:
    family = make_family(np.zeros(6), np.ones(6), np.array([3.0, 3.0, 3.0, 3.0, 3.0, 2.0]))
    assert family.df.tolist() == [2 + earned_df(6, 3)] * 5 + [1 + earned_df(6, 2)]
    with pytest.raises(ValueError, match="two pairs"):
        make_family(np.zeros(2), np.ones(2), np.array([3.0, 1.0]))


def test_sidak_by_hand() -> None:
    assert adjust_sidak(np.array([0.01, 0.5, 1.0, 0.0]), 3) == pytest.approx([0.029701, 0.875, 1.0, 0.0])
    assert single_level(2, 0.81) == pytest.approx(0.9)


@pytest.mark.parametrize(("n_arms", "n_pairs"), [(1, 2), (3, 3), (6, 5), (13, 3), (20, 10)])
def test_intervals_and_p_values_of_a_family_never_disagree(n_arms: int, n_pairs: int) -> None:
    family = family_of(draw_families(n_arms, n_pairs))
    for estimate in (family.plain(), family.simultaneous()):
        excludes = (estimate.low > 0) | (estimate.high < 0)
        assert (excludes == (estimate.p_value < 0.05)).all()
        assert excludes.any() and not excludes.all()
    assert family.half_width() == pytest.approx(family.plain().high - family.mean)
    assert (family.simultaneous().low <= family.plain().low).all()


def test_verdicts_do_not_depend_on_order_units_or_sign() -> None:
    differences = draw_families(6, 3)
    verdicts = judge(family_of(differences), 1.0)
    assert {"better", "worse", "equivalent", "undecided"} == set(verdicts.ravel())
    assert (judge(family_of(differences[:, ::-1]), 1.0)[:, ::-1] == verdicts).all()
    assert (judge(family_of(1024 * differences), 1024.0) == verdicts).all()
    swap: Callable[[str], str] = {"better": "worse", "worse": "better"}.get  # type: ignore[assignment]
    mirrored = [[swap(word) or word for word in row] for row in verdicts.tolist()]
    assert judge(family_of(-differences), 1.0).tolist() == mirrored


def test_equivalence_by_hand() -> None:
    # t of both sides: (0.1 + 0.3) / 0.1 = 4 and (0.3 - 0.1) / 0.1 = 2; with 2 degrees of freedom
    # P(T > t) = 1/2 - t / (2 sqrt(t^2 + 2))
    family = Family(np.array([0.1]), np.array([0.1]), np.array([2.0]))
    assert p_of_equivalence(family, 0.3) == pytest.approx([0.5 - 2 / (2 * math.sqrt(6))])
    assert p_of_equivalence(family, 0.1) == pytest.approx([0.5])
    still = Family(np.array([0.1, 0.1]), np.zeros(2), np.full(2, 2.0))
    assert p_of_equivalence(still, 0.2).tolist() == [0.0, 0.0]
    assert p_of_equivalence(still, 0.1).tolist() == [1.0, 1.0]


def test_an_arm_is_equivalent_exactly_if_its_90_percent_interval_is_inside() -> None:
    family = family_of(draw_families(4, 5))
    assert family.equivalence_df is not None and (family.equivalence_df < family.df).all()
    inner = replace(family, df=family.equivalence_df).plain(0.9)
    is_inside = (inner.low > -0.5) & (inner.high < 0.5)
    assert ((p_of_equivalence(family, 0.5) < 0.05) == is_inside).all()
    assert is_inside.any()


def test_a_clear_difference_stays_clear_although_it_is_small() -> None:
    family = Family(np.array([-0.004, 0.004, 0.0, 0.004]), np.array([1e-4, 1e-4, 1e-4, 0.01]), np.full(4, 4.0))
    assert judge(family, 0.01).tolist() == ["better", "worse", "equivalent", "undecided"]
    assert judge(family, None).tolist() == ["better", "worse", "undecided", "undecided"]


def test_power_is_that_of_published_examples() -> None:
    # R's documentation of power.t.test: n = 20 per group, delta = sd = 1 gives 0.8689528, and a power of 0.9 takes
    # 22.02110 per group.
    assert power_of(np.array(1.0), np.sqrt(np.array(2 / 20)), np.array(38.0)) == pytest.approx(0.8689528, abs=1e-7)
    n = 22.02110
    assert power_of(np.array(1.0), np.sqrt(np.array(2 / n)), np.array(2 * n - 2)) == pytest.approx(0.9, abs=1e-6)


def test_plans_invert_the_power() -> None:
    error, df = np.array(0.02), np.array(3.5)
    effect = find_detectable(error, df, 0.99)
    assert power_of(effect, error, df, 0.99) == pytest.approx(0.8, abs=1e-6)
    for n_arms in (1, 3, 13):
        needed = seeds_needed(0.01, 0.012, n_arms)
        assert needed is not None
        assert detectable_difference(0.012, n_arms, needed) <= 0.01 < detectable_difference(0.012, n_arms, needed - 1)
    assert seeds_needed(1e-6, 1.0, 1) is None
    with pytest.raises(ValueError, match="one seed"):
        detectable_difference(1.0, 1, 1)
