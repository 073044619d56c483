import math

import numpy as np
import pytest
from by_hand import CPU, STEPS, make_results, make_run
from scipy import stats

from ablate.analysis import parse_target, speed_ups
from ablate.analysis.summary import describe_device
from ablate.errors import AblateError

# The baseline loses 1 nat per doubling of the steps: 4, 3, 2, 1. An arm shifted by d nats is exp2(d) times as fast.
BASE = [4.0, 3.0, 2.0, 1.0]
ARMS = ("base", "arm")
COVERAGE = (0.93, 0.97)


def shifted(by):
    return [loss - by for loss in BASE]


def pick(rows, axis="steps", target="final", arm="arm"):
    (row,) = [row for row in rows if (row.axis, row.target, row.arm) == (axis, target, arm)]
    return row


def study(*shifts, base_shifts=None, **changes):
    base = [make_run("base", seed, shifted(by)) for seed, by in enumerate(base_shifts or [0.0] * len(shifts))]
    return make_results(*base, *(make_run("arm", seed, shifted(by), **changes) for seed, by in enumerate(shifts)))


def test_paired_ratio_and_interval_by_hand():
    row = pick(speed_ups(study(0.5, 1.0, 1.5)))
    mean, half = math.log(2), 4.302653 * 0.5 * math.log(2) / math.sqrt(3)
    assert row.ratio == pytest.approx(2.0)
    assert row.low == pytest.approx(math.exp(mean - half), rel=1e-6)
    assert row.high == pytest.approx(math.exp(mean + half), rel=1e-6)
    assert (row.target_loss, row.n_pairs, row.n_reached, row.bound) == (1.0, 3, 3, None)


def test_targets_are_each_seeds_own_and_ladder_costs_are_exact_shares():
    rows = speed_ups(study(1.0, 1.0, base_shifts=[0.0, 0.5]))
    # the first arm is 1 nat ahead of its baseline, the second one half a nat
    for target in ("50", "75", "90", "final"):
        assert pick(rows, target=target).ratio == pytest.approx(math.sqrt(2 * math.sqrt(2)))
    assert pick(rows).target_loss == pytest.approx(0.75)
    assert pick(rows, target="50").target_loss == pytest.approx(1.75)


def test_seconds_follow_the_time_a_step():
    rows = speed_ups(study(1.0, 1.0, step_s=1.0))
    assert [pick(rows, axis).ratio for axis in ("steps", "tokens", "flops", "seconds")] == pytest.approx([2, 2, 2, 1])


def test_gpu_seconds_only_where_every_run_held_a_gpu():
    gpu = {"device": {"kind": "cuda", "name": "h"}, "gpus": 0.5}
    assert {row.axis for row in speed_ups(study(1.0))} == {"steps", "tokens", "flops", "seconds"}
    runs = [make_run("base", 0, BASE, manifest=gpu), make_run("arm", 0, shifted(1.0), manifest=gpu | {"gpus": 1})]
    rows = speed_ups(make_results(*runs))
    assert pick(rows, "gpu_seconds").ratio == pytest.approx(1.0)  # half the time on twice the share of the device
    assert pick(rows, "seconds").ratio is None
    assert "different devices" in pick(rows, "seconds").note


def test_seconds_of_runs_that_took_turns_at_a_gpu_are_not_compared():
    gpu = {"device": {"kind": "cuda", "name": "h"}, "gpus": 0.5}
    for shared_by, is_comparable in ((1, True), (4, False)):
        manifest = {**gpu, "shared_by": shared_by}
        runs = [
            make_run(arm, seed, shifted(by), manifest=manifest)
            for arm, by in (("base", 0.0), ("arm", 1.0))
            for seed in (0, 1)
        ]
        rows = speed_ups(make_results(*runs))
        for axis in ("seconds", "gpu_seconds"):
            assert (pick(rows, axis).ratio is not None) == is_comparable
            assert ("the runs shared a GPU" in pick(rows, axis).note) != is_comparable
        assert pick(rows, "tokens").ratio == pytest.approx(2.0)


def test_a_run_with_a_whole_gpu_shares_it_with_none():
    single, beside_two = ({"device": {"kind": "cuda", "name": "h"}, "gpus": 1, "shared_by": n} for n in (1, 3))
    runs = [make_run("base", 0, BASE, manifest=single), make_run("arm", 0, shifted(1.0), manifest=beside_two)]
    assert pick(speed_ups(make_results(*runs)), "seconds").ratio == pytest.approx(2.0)
    assert describe_device(runs[1]) == "h, 1 GPU"


@pytest.mark.parametrize(
    "change",
    [{"shared_by": 2}, {"threads": 2}, {"processes": 2}, {"device": {"kind": "cpu", "name": "two"}}],
)
def test_seconds_are_not_compared_across_devices(change):
    rows = speed_ups(study(1.0, 1.0, manifest={**CPU, **change}))
    row = pick(rows, "seconds")
    assert (row.ratio, row.low, row.high, row.bound) == (None, None, None, None)
    assert "different" in row.note
    assert pick(rows, "tokens").ratio == pytest.approx(2.0)


def test_seconds_come_from_measured_steps_where_clock_times_cannot_be_compared():
    elsewhere = study(1.0, 1.0, manifest={**CPU, "shared_by": 2})
    row = pick(speed_ups(elsewhere, measured_step_s={"base": 0.1, "arm": 0.16}), "seconds")
    assert row.ratio == pytest.approx(2.0 / 1.6)
    assert "measured time per step" in row.note
    assert pick(speed_ups(elsewhere, measured_step_s={"arm": 0.16}), "seconds").ratio is None
    here = study(1.0, 1.0)
    assert pick(speed_ups(here, measured_step_s={"base": 0.1, "arm": 0.16}), "seconds").ratio == pytest.approx(2.0)


def test_one_seed_gives_a_number_without_an_interval():
    row = pick(speed_ups(study(1.0)))
    assert row.ratio == pytest.approx(2.0)
    assert (row.low, row.high, row.p_value, row.n_pairs) == (None, None, None, 1)
    assert row.note == "no interval: one seed"


def test_an_arm_that_never_arrives_gets_an_upper_bound():
    row = pick(speed_ups(study(1.0, -0.5)))
    # pairs: 2x, and at most 800/800 = 1x where censored at the budget
    assert (row.bound, row.ratio, row.low) == ("at_most", None, None)
    assert row.high == pytest.approx(math.sqrt(2))
    assert (row.n_reached, row.n_pairs) == (1, 2)


def test_a_bound_is_tested_on_the_losses_at_the_same_cost():
    by = [-0.3, -0.4, -0.6]
    row = pick(speed_ups(study(*by)))
    assert (row.bound, row.high) == ("at_most", pytest.approx(1.0))
    assert row.p_value == pytest.approx(
        stats.ttest_1samp(by, 0).pvalue
    )  # the arm is this much above at the end of the budget
    assert (row.p_holm, row.method) == (row.p_value, "paired t on the loss at the same cost")
    # the run that arrives is compared at its crossing, half way, where it is 1 below its baseline
    assert pick(speed_ups(study(1.0, -0.5))).p_value is None  # below on average, which contradicts "at most"
    assert pick(speed_ups(study(1.0, -1.5))).p_value == pytest.approx(stats.ttest_1samp([1.0, -1.5], 0).pvalue)
    early = pick(speed_ups(study(1.0, 1.2), [0.5]), target=0.5)
    assert (early.bound, early.p_value) == ("at_least", pytest.approx(stats.ttest_1samp([1.0, 1.2], 0).pvalue))


def test_a_bound_of_unmatched_seeds_is_tested_at_the_cost_of_all():
    offsets = [-0.1, 0.0, 0.1], [-0.9, -1.0, -1.2]
    base, arm = ([make_run(a, 10 * i + s, shifted(by)) for s, by in enumerate(offsets[i])] for i, a in enumerate(ARMS))
    row = pick(speed_ups(make_results(*base, *arm)))
    expected = stats.ttest_ind(*offsets, equal_var=False).pvalue
    assert (row.bound, row.p_value) == ("at_most", pytest.approx(expected))
    assert row.method == "Welch t on the loss at the same cost"


@pytest.mark.parametrize("n_seeds", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_an_arm_that_is_no_worse_was_called_clearly_slower_in_one_study_of_eight(n_seeds):
    rng = np.random.default_rng(n_seeds)
    n_studies = 1000
    noise = 0.1 * rng.standard_normal((n_studies, n_seeds))
    p_values = [pick(speed_ups(study(*by), ["final"])).p_value for by in noise]
    n_clear = sum(p_value is not None and p_value < 0.05 for p_value in p_values)
    assert 0.03 <= n_clear / n_studies <= 0.07


def test_bounded_arms_count_in_holms_family():
    runs = [make_run("base", seed, BASE) for seed in range(3)]
    runs += [
        make_run(arm, seed, shifted(by))
        for arm, offsets in (("fast", [0.5, 0.7, 0.6]), ("slow", [-0.2, -0.1, -0.5]))
        for seed, by in enumerate(offsets)
    ]
    rows = speed_ups(make_results(*runs), ["final"])
    fast, slow = pick(rows, arm="fast"), pick(rows, arm="slow")
    assert (fast.p_holm, slow.p_holm) == (pytest.approx(2 * fast.p_value), pytest.approx(slow.p_value))


@pytest.mark.parametrize("spacing", [30, 50, 70])
def test_rounding_made_an_arm_of_the_same_curves_clearly_faster(spacing):
    steps = (*range(spacing, 1000, spacing), 1000)
    offsets = np.random.default_rng(0).normal(0, 0.05, (40, 3))
    for offset in offsets:
        runs = [
            make_run(arm, seed, 6 - 0.5 * np.log1p(np.array(steps) / 10) + by, steps)
            for arm in ARMS
            for seed, by in enumerate(offset)
        ]
        rows = speed_ups(make_results(*runs))
        assert {row.p_value for row in rows} == {1.0}


def test_a_diverged_run_is_censored_where_it_stopped():
    runs = [make_run("base", 0, BASE), make_run("arm", 0, [4.5, 3.5], STEPS[:2], state="diverged", n_steps=800)]
    row = pick(speed_ups(make_results(*runs)))
    assert (row.bound, row.high) == ("at_most", pytest.approx(4.0))
    assert row.note == "1 run of this arm diverged"


def test_an_arm_cut_by_a_rule_gets_a_bound():
    runs = [make_run("base", 0, BASE), make_run("arm", 0, [4.5, 3.5, 2.5], STEPS[:3], n_steps=800)]
    row = pick(speed_ups(make_results(*runs)))
    assert (row.bound, row.high, row.note) == ("at_most", pytest.approx(2.0), "1 run of this arm stopped early")


def test_an_absolute_target_that_only_the_arm_reaches_gives_a_lower_bound():
    row = pick(speed_ups(study(1.0, 1.0), [0.5]), target=0.5)
    assert row.bound == "at_least"
    assert row.low == pytest.approx(800 / (400 * math.sqrt(2)))
    assert (row.ratio, row.high, row.n_reached, row.target_loss) == (None, None, 2, 0.5)  # the arm's runs, both present


def test_an_absolute_target_that_nobody_reaches_is_not_determined():
    row = pick(speed_ups(study(0.0, 0.1), [0.1]), target=0.1)
    assert (row.bound, row.ratio, row.low, row.high) == ("not_determined", None, None, None)


def test_an_absolute_target_that_both_cross():
    row = pick(speed_ups(study(1.0, 1.0), [2.0]), target=2.0)
    assert row.ratio == pytest.approx(2.0)


def test_a_target_that_all_are_below_at_once_is_not_called_out_of_reach():
    row = pick(speed_ups(study(1.0, 1.0), [9.0]), target=9.0)
    assert (row.bound, row.n_reached) == ("not_determined", 2)
    assert row.note == "some runs are below the target at their first evaluation"


def test_seconds_of_unknown_devices_are_not_compared():
    runs = [make_run(arm, 0, losses, manifest={}) for arm, losses in (("base", BASE), ("arm", shifted(1.0)))]
    row = pick(speed_ups(make_results(*runs)), axis="seconds")
    assert (row.ratio, row.bound) == (None, None)
    assert "the devices on which the runs were trained are not known" in row.note


def test_a_target_met_before_the_first_evaluation_gives_a_lower_bound():
    runs = [make_run("base", 0, BASE), make_run("arm", 0, [0.9, 0.8, 0.7, 0.6])]
    row = pick(speed_ups(make_results(*runs)))
    assert (row.bound, row.low) == ("at_least", pytest.approx(8.0))


def test_a_baseline_that_diverged_leaves_its_seed_out():
    runs = [
        make_run("base", 0, BASE),
        make_run("base", 1, BASE[:2], STEPS[:2], state="diverged", n_steps=800),
        *(make_run("arm", seed, shifted(1.0)) for seed in (0, 1)),
    ]
    row = pick(speed_ups(make_results(*runs)))
    assert (row.n_pairs, row.ratio) == (1, pytest.approx(2.0))
    assert "1 run of the baseline diverged" in row.note


def test_no_baseline_left_is_not_determined():
    runs = [make_run("base", 0, BASE[:2], STEPS[:2], state="diverged", n_steps=800), make_run("arm", 0, BASE)]
    row = pick(speed_ups(make_results(*runs)))
    assert (row.bound, row.n_pairs) == ("not_determined", 0)
    assert "no run of the baseline counts" in row.note


def test_unfinished_runs_are_left_out_and_told():
    runs = [*study(1.0, 1.0).runs, make_run("arm", 2, [0.0, 0.0], STEPS[:2], state="running", n_steps=800)]
    row = pick(speed_ups(make_results(*runs)))
    assert (row.n_pairs, row.ratio) == (2, pytest.approx(2.0))
    assert row.note == "1 run of this arm left out (unfinished)"


def test_seeds_that_do_not_match_use_welch_and_say_so():
    base = [make_run("base", seed, shifted(by)) for seed, by in enumerate([-0.1, 0.0, 0.1])]
    arm = [make_run("arm", 10 + seed, shifted(by)) for seed, by in enumerate([0.9, 1.0, 1.1])]
    row = pick(speed_ups(make_results(*base, *arm)))
    assert row.ratio == pytest.approx(2.0)
    assert "Welch" in row.method and "conservative" in row.method
    assert row.note == "the seeds do not match, so the interval is conservative"  # no page has the method
    # the baseline's noise counts although its cost is exact: se^2 = 2 var / 3, df = 4, t = 2.776445
    half = 2.776445 * math.sqrt(2 * 0.01 / 3) * math.log(2)
    assert (row.low, row.high) == (pytest.approx(2 * math.exp(-half)), pytest.approx(2 * math.exp(half)))


def test_within_keeps_groups_apart_and_holm_runs_inside_each():
    runs = [
        make_run(f"{kind}-{length}", seed, shifted(by + 0.1 * seed))
        for length in (1, 2)
        for kind, by in (("base", 0.0), ("arm", length), ("other", 0.05))
        for seed in range(3)
    ]
    baseline = {f"{kind}-{n}": f"base-{n}" for n in (1, 2) for kind in ("base", "arm", "other")}
    within = {f"{kind}-{n}": {"context_length": n} for n in (1, 2) for kind in ("base", "arm", "other")}
    rows = speed_ups(make_results(*runs, baseline=baseline, within=within))
    for length in (1, 2):
        row = pick(rows, arm=f"arm-{length}")
        assert (row.baseline, row.within, row.ratio) == (
            f"base-{length}",
            {"context_length": length},
            pytest.approx(2.0**length),
        )


def test_holm_is_over_the_arms_of_one_baseline():
    noise = [0.0, 0.2, 0.1]
    runs = [make_run("base", seed, BASE) for seed in range(3)]
    runs += [make_run(f"arm{i}", seed, shifted(0.3 * i + noise[seed])) for i in (1, 2) for seed in range(3)]
    rows = speed_ups(make_results(*runs), ["final"])
    weak, strong = pick(rows, arm="arm1"), pick(rows, arm="arm2")
    assert strong.p_holm == pytest.approx(2 * strong.p_value)
    assert weak.p_holm == pytest.approx(max(weak.p_value, 2 * strong.p_value))


def test_different_evaluation_steps_are_compared_by_crossing():
    runs = [
        *(make_run("base", seed, BASE) for seed in (0, 1)),
        *(make_run("arm", seed, [3.5, 2.0, 0.0], (50 * 2**0.5, 200, 800)) for seed in (0, 1)),
    ]
    assert pick(speed_ups(make_results(*runs))).ratio == pytest.approx(2.0)


def test_no_evaluation_before_the_share_is_told():
    runs = [make_run("base", 0, [1.0], [800]), make_run("arm", 0, shifted(1.0))]
    rows = speed_ups(make_results(*runs))
    assert pick(rows, target="50").bound == "not_determined"
    assert "no evaluation before 50 %" in pick(rows, target="50").note
    assert pick(rows).ratio == pytest.approx(2.0)


def test_unrecorded_seconds_are_told_and_the_rest_stands():
    rows = speed_ups(study(1.0, 1.0, wall_s=[float("nan")] * 4))
    assert pick(rows, "seconds").ratio is None
    assert "not recorded" in pick(rows, "seconds").note
    assert pick(rows, "steps").ratio == pytest.approx(2.0)


def test_targets_are_parsed_with_the_nearest_spelling():
    assert [parse_target(text) for text in ("50", "final", "3.28")] == ["50", "final", 3.28]
    with pytest.raises(AblateError, match="did you mean 'final'"):
        parse_target("finall")
    with pytest.raises(AblateError, match="50, 75, 90, final"):
        parse_target("nan")


@pytest.mark.parametrize("n_seeds", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_reported_intervals_cover_the_truth_through_the_whole_computation(n_seeds):
    rng = np.random.default_rng(n_seeds)
    n_studies, truth, hits = 600, math.log2(1.3), 0
    for _ in range(n_studies):
        noise = rng.standard_normal(n_seeds) * 0.1
        row = pick(speed_ups(study(*(truth + noise)), ["final"]))
        hits += row.low <= 1.3 <= row.high
    assert COVERAGE[0] <= hits / n_studies <= COVERAGE[1]


@pytest.mark.parametrize("n_seeds", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_intervals_of_unmatched_seeds_cover_the_truth_although_the_baselines_cost_is_exact(n_seeds):
    rng = np.random.default_rng(10 + n_seeds)
    n_studies, truth, hits = 600, math.log2(1.3) + 1, 0
    for _ in range(n_studies):
        base_noise, arm_noise = rng.standard_normal((2, n_seeds)) * 0.1
        base = [make_run("base", seed, shifted(by)) for seed, by in enumerate(base_noise)]
        arm = [make_run("arm", 100 + seed, shifted(truth + by)) for seed, by in enumerate(arm_noise)]
        row = pick(speed_ups(make_results(*base, *arm), ["final"]))
        hits += row.low <= 2.6 <= row.high
    assert hits / n_studies >= COVERAGE[0]
