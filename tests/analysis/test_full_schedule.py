import math

import pytest
from by_hand import make_results, make_run

from ablate.analysis.full_schedule import full_schedule_speed_ups

# The baseline ends at 4, 3, 2 after 100, 200, 400 steps: 1 nat per doubling of the budget.
HORIZONS = {100: 4.0, 200: 3.0, 400: 2.0}


def study(arm_losses, horizon=200, seeds=(0, 1), baseline_losses=HORIZONS):
    runs, axes, baseline = [], {}, {}
    for steps, loss in baseline_losses.items():
        name = f"base-{steps}"
        axes[name], baseline[name] = {"kind": "base", "train.steps": steps}, name
        runs += [make_run(name, seed, [9.0, loss], (steps // 2, steps)) for seed in seeds]
    name = f"arm-{horizon}"
    axes[name], baseline[name] = {"kind": "arm", "train.steps": horizon}, f"base-{horizon}"
    runs += [
        make_run(name, seed, [9.0, loss], (horizon // 2, horizon), step_s=1.0) for seed, loss in enumerate(arm_losses)
    ]
    study_axes = {"kind": ("base", "arm"), "train.steps": tuple(baseline_losses)}
    return make_results(*runs, baseline=baseline, axes=axes, study_axes=study_axes)


def pick(results, axis="steps"):
    (row,) = [row for row in full_schedule_speed_ups(results) if row.axis == axis]
    return row


def test_the_baselines_budget_is_read_off_between_its_horizons():
    row = pick(study([2.5, 2.5]))
    # the baseline would end at 2.5 after sqrt(200 * 400) steps
    assert row.ratio == pytest.approx(math.sqrt(200 * 400) / 200)
    assert (row.arm, row.baseline, row.target, row.target_loss, row.n_pairs) == ("arm-200", "base-200", "final", 2.5, 2)
    assert pick(study([2.5, 2.5]), "seconds").ratio == pytest.approx(math.sqrt(200 * 400) / 200 / 2)


def test_the_interval_is_the_paired_one():
    row = pick(study([2.5, 3.0]))
    mean, half = 0.25 * math.log(2), 12.706205 * 0.25 * math.log(2)
    assert (row.low, row.high) == (pytest.approx(math.exp(mean - half)), pytest.approx(math.exp(mean + half)))


def test_outside_the_baselines_range_it_is_a_bound():
    better, worse = pick(study([1.5, 1.5])), pick(study([4.5, 4.5]))
    assert (better.bound, better.low, better.ratio) == ("at_least", pytest.approx(2.0), None)
    assert (worse.bound, worse.high, worse.ratio) == ("at_most", pytest.approx(0.5), None)


def test_a_study_of_one_horizon_has_no_full_schedule_rows():
    assert full_schedule_speed_ups(study([3.0], horizon=200, baseline_losses={200: 3.0})) == ()
    runs = [make_run("base", 0, [4.0, 3.0, 2.0, 1.0]), make_run("arm", 0, [4.0, 3.0, 2.0, 1.0])]
    assert full_schedule_speed_ups(make_results(*runs)) == ()


def test_a_seed_that_the_baseline_lacks_is_no_pair():
    row = pick(study([2.5, 2.5, 2.5], seeds=(0, 1)))
    assert row.n_pairs == 2
    row = pick(study([2.5], seeds=(7,)))
    assert (row.bound, row.n_pairs) == ("not_determined", 0)
    assert "no seed has the arm and two horizons" in row.note
