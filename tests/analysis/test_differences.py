"""Differences of final losses and the verdicts on arms, in studies made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from by_hand import make_results, make_run
from scipy import stats

from ablate.analysis import Results
from ablate.analysis.differences import Difference, find_differences
from ablate.analysis.moderated import earned_df
from ablate.analysis.samples import IDENTICAL, MODERATED, PAIRED, WELCH
from ablate.analysis.selection import measure_by, merge
from ablate.analysis.uneven import find_uneven
from ablate.report.cautions import describe_uneven


def study(ends: Mapping[str, Sequence[float]], first_seed: Mapping[str, int] | None = None, **changes: Any) -> Results:
    """Arms by their final losses, one per seed."""
    start, metrics = first_seed or {}, changes.pop("metrics", {"val_loss": "lower"})
    runs = [
        make_run(arm, start.get(arm, 0) + place, [9.0, 8.0, 7.0, end], metrics=metrics)
        for arm, losses in ends.items()
        for place, end in enumerate(losses)
    ]
    return make_results(*runs, **changes)


def find(results: Results, arm: str = "arm") -> Difference:
    return next(row for row in find_differences(results) if row.arm == arm)


BASE = (3.0, 3.1, 3.2)


def test_the_verdict_is_the_same_for_a_difference_and_for_its_interval() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        arms = {f"arm{k}": 3 + rng.normal(0, 0.02) + rng.normal(0, 0.01, 3) for k in range(6)}
        for row in find_differences(study({"base": 3 + rng.normal(0, 0.01, 3), **arms})):
            assert row.low_simultaneous is not None and row.high_simultaneous is not None and row.method == MODERATED
            is_clear = row.low_simultaneous > 0 or row.high_simultaneous < 0
            assert is_clear == (row.verdict in ("better", "worse"))
            assert row.verdict != "better" or row.estimate < 0
            seen.add(row.verdict)
    assert seen >= {"better", "worse", "undecided"}


def test_six_arms_lend_each_other_degrees_of_freedom() -> None:
    noise = ((0.0, 0.01, -0.01), (0.0, 0.02, -0.02), (0.01, 0.0, -0.01))
    ends = {f"arm{k}": tuple(3.5 + e for e in noise[k % 3]) for k in range(6)}
    row = find(study({"base": (3.0, 3.0, 3.0), **ends}), "arm0")
    assert row.low is not None and row.p_value is not None
    t, df = row.estimate / ((row.estimate - row.low) / stats.t.ppf(0.975, 2 + earned_df(6, 3))), 2 + earned_df(6, 3)
    assert row.p_value == pytest.approx(2 * stats.t.sf(t, df))
    assert row.p_simultaneous == pytest.approx(1 - (1 - row.p_value) ** 6)


def test_unmatched_seeds_are_compared_by_welch_and_not_moderated() -> None:
    results = study({"base": BASE, "arm": (2.0, 2.1, 2.3)}, {"arm": 10})
    row, expected = find(results), stats.ttest_ind((2.0, 2.1, 2.3), BASE, equal_var=False)
    assert (row.method, row.n, row.verdict) == (WELCH, 3, "better")
    assert row.p_value == pytest.approx(expected.pvalue)
    assert (row.low, row.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_one_common_seed_of_many_pairs_nothing() -> None:
    assert find(study({"base": BASE, "arm": (2.0, 2.1, 2.3)}, {"arm": 2})).method == WELCH
    single = find(study({"base": BASE, "arm": (2.0,)}))
    assert (single.estimate, single.n, single.method, single.verdict) == (-1.0, 1, "", "undecided")


def test_the_arms_of_one_baseline_are_a_family_and_others_are_not() -> None:
    ends = {"base": BASE, "arm": (2.0, 2.2, 2.1), "base2": BASE, "arm2": (2.0, 2.2, 2.1), "arm3": (2.5, 2.4, 2.6)}
    baseline = {"base": "base", "arm": "base", "base2": "base2", "arm2": "base2", "arm3": "base2"}
    results = study(ends, baseline=baseline)
    assert (find(results).method, find(results).p_simultaneous) == (PAIRED, find(results).p_value)
    assert find(results, "arm2").method == MODERATED


def test_an_arm_without_scatter_made_the_others_look_precise() -> None:
    # rounded metrics: `tied` differs by the same in every seed, so its variance is 0
    ends = {"base": (0.0, 0.0, 0.0), "arm": (0.1, 0.2, 0.3), "tied": (0.2, 0.2, 0.2)}
    row, tied = find(study(ends)), find(study(ends), "tied")
    assert (row.method, row.verdict) == (PAIRED, "undecided")  # there is nothing to borrow from
    assert row.p_value == pytest.approx(stats.ttest_1samp((0.1, 0.2, 0.3), 0).pvalue)
    assert (tied.method, tied.sd) == (
        MODERATED,
        pytest.approx(0.1 / np.sqrt(2)),
    )  # not certain, as its own scatter says
    still = study({"base": BASE, "arm": BASE, "tied": BASE})
    assert {(row.verdict, row.method) for row in find_differences(still)} == {("equivalent", IDENTICAL)}


def test_an_arm_that_trains_exactly_like_its_baseline_was_undecided_beside_a_noisy_one() -> None:
    ends = {"base": BASE, "arm": BASE, "noisy": (2.0, 3.5, 4.1)}
    row = find(study(ends))
    assert (row.verdict, row.method, row.high_simultaneous) == ("equivalent", IDENTICAL, 0)
    assert find(study(ends, metrics={"val_loss": "higher"})).verdict == "undecided"  # of an unknown scale
    # equal ends of other curves may be equal by rounding
    runs = [run for run in study(ends).runs if run.arm != "arm"]
    others = [make_run("arm", seed, [9.0, 8.0, 7.5, end]) for seed, end in enumerate(BASE)]
    row = find(make_results(*runs, *others))
    assert (row.verdict, row.method) == ("undecided", MODERATED)


def test_an_arm_that_scatters_far_more_hid_a_clear_one_without_a_word() -> None:
    clear = {"base": BASE, "arm": (2.9, 3.02, 3.1), "third": (3.0, 3.12, 3.19)}
    ends = {**clear, "noisy": (2.0, 3.5, 4.4)}
    both = study(ends)
    assert (find(study(clear)).verdict, find(both).verdict) == ("better", "undecided")
    assert not find_uneven(study(clear), find_differences(study(clear)))
    arm, third, noisy = (np.subtract(ends[name], BASE).std(ddof=1) for name in ("arm", "third", "noisy"))
    uneven = find_uneven(both, find_differences(both))
    assert uneven == {"noisy": pytest.approx(noisy / np.sqrt(arm * third))}
    (sentence,) = describe_uneven(uneven, {"noisy": "loud"})
    assert sentence.startswith("loud scatters 84x as much between seeds as the other arms")


def test_equivalence_needs_a_smallest_effect() -> None:
    ends = {"base": BASE, "arm": (3.001, 3.099, 3.2015)}
    row = find(study(ends))
    assert (row.verdict, row.is_small) == ("equivalent", True)  # 0.01 nats, because it is a language model
    assert find(study(ends, smallest_effect=0.001)).verdict == "undecided"
    accuracy = study(ends, metrics={"val_loss": "higher"})
    assert find(accuracy).verdict == "undecided"
    assert find(study(ends, metrics={"val_loss": "higher"}, smallest_effect=0.1)).verdict == "equivalent"


def test_a_smallest_effect_is_only_for_the_metric_that_it_was_given_for() -> None:
    results = study({"base": BASE, "arm": BASE}, metrics={"val_loss": "higher", "f1": "higher"}, smallest_effect=0.1)
    assert results.smallest_effect == 0.1
    assert measure_by(results, "val_loss").smallest_effect == 0.1
    assert measure_by(results, "f1").smallest_effect is None


def test_merged_studies_have_the_smaller_of_their_smallest_effects() -> None:
    made = [study({"base": BASE, "arm": BASE}, smallest_effect=size, name=f"s{size}") for size in (0.02, 0.05)]
    assert merge(made).smallest_effect == 0.02


def test_the_detectable_difference_is_found_in_80_percent_of_studies_by_hand() -> None:
    row = find(study({"base": (3.0, 3.0, 3.0), "arm": (3.1, 3.2, 3.3)}))
    error = 0.1 / np.sqrt(3)
    power = 1 - stats.nct.cdf(stats.t.ppf(0.975, 2), 2, row.detectable / error)
    assert power == pytest.approx(0.8, abs=1e-6)
