from dataclasses import replace

import numpy as np
import pytest
from by_hand import CPU, STEPS, make_results, make_run

from ablate.analysis.fairness import check_fairness
from ablate.analysis.speedup import speed_ups
from ablate.analysis.summary import Spread, find_mishaps, summarize_arms

BASE = [4.0, 3.0, 2.0, 1.0]
FAST = [3.0, 2.0, 1.0, 0.5]


def check(*runs, **changes):
    return {line.arm: line for line in check_fairness(make_results(*runs, **changes))}


def test_equal_arms_carry_no_flag():
    lines = check(make_run("base", 0, BASE), make_run("arm", 0, FAST))
    assert [line.flags for line in lines.values()] == [(), ()]


@pytest.mark.parametrize(
    ("n_params", "flag"), [(1021, "2.1 % more parameters than its baseline"), (979, "2.1 % fewer"), (1020, "")]
)
def test_more_than_two_percent_of_parameters_is_flagged(n_params, flag):
    line = check(make_run("base", 0, BASE), make_run("arm", 0, FAST), n_params={"arm": n_params})["arm"]
    assert line.params_ratio == n_params / 1000
    assert (flag in line.flags[0]) if flag else not line.flags


def test_a_crossing_before_the_decay_is_flagged_with_the_state_of_the_schedule():
    rates = [1.0, 1.0, 1.0, 0.1]  # decays after step 400; the arm crosses at step 400
    line = check(make_run("base", 0, BASE), make_run("arm", 0, FAST, learning_rate=rates))["arm"]
    assert (line.crossing_share, line.learning_rate_share) == (pytest.approx(0.5), 1.0)
    assert "before its learning rate has begun to decay" in line.flags[0]


@pytest.mark.parametrize("rates", [[1.0, 0.8, 0.4, 0.1], [1.0, 1.0, 1.0, 1.0], [np.nan] * 4])
def test_a_crossing_in_the_decay_or_without_any_is_not_flagged(rates):
    assert check(make_run("base", 0, BASE), make_run("arm", 0, FAST, learning_rate=rates))["arm"].flags == ()


def test_precision_backend_data_and_horizon_are_compared():
    exact = {**CPU, "precision": "float32", "attention_backend": "math", "data_hash": "aa"}
    loose = {**CPU, "precision": "bfloat16", "attention_backend": "sdpa", "data_hash": "bb"}
    other = make_run("arm", 0, FAST, manifest=loose, n_steps=1600)
    line = check(make_run("base", 0, BASE, manifest=exact), other)["arm"]
    assert line.flags == (
        "trained on 16,000 tokens, its baseline on 8,000",
        "precision differs: bfloat16 against float32",
        "attention backend differs: sdpa against math",
        "data differs: bb against aa",
    )


def test_what_is_unknown_is_not_flagged_as_different():
    other = make_run("arm", 0, FAST, manifest={**CPU, "precision": "bfloat16"})
    assert check(make_run("base", 0, BASE), other)["arm"].flags == ()


def test_arms_are_counted_by_how_their_runs_ended():
    runs = [
        make_run("base", 0, BASE),
        make_run("base", 1, [4.0, 3.0, 2.0, 3.0]),
        make_run("base", 2, BASE[:2], STEPS[:2], state="diverged", n_steps=800),
        make_run("base", 3, BASE[:2], STEPS[:2], n_steps=800),
        make_run("base", 4, BASE[:2], STEPS[:2], state="running", n_steps=800),
        make_run("base", 5, [], [], state="failed", n_steps=800),
    ]
    (arm,) = summarize_arms(make_results(*runs))
    counts = (arm.n_runs, arm.n_finished, arm.n_diverged, arm.n_stopped, arm.n_failed, arm.n_unfinished)
    assert counts == (6, 2, 1, 1, 1, 1)
    assert arm.final_loss == Spread(2.0, pytest.approx(np.sqrt(2)), 2)
    assert (arm.step_s.mean, arm.tokens_per_s) == (0.5, 20.0)
    states = [(mishap.seed, mishap.state, mishap.step) for mishap in find_mishaps(make_results(*runs))]
    assert states == [(2, "diverged", 200), (3, "stopped early", 200), (4, "running", 200), (5, "failed", 0)]


def test_the_time_a_step_is_compared_only_on_one_device():
    base, arm = make_run("base", 0, BASE), make_run("arm", 0, FAST, step_s=1.0)
    assert summarize_arms(make_results(base, arm))[1].step_ratio == 2.0
    elsewhere = make_run("arm", 0, FAST, step_s=1.0, manifest={**CPU, "shared_by": 4})
    assert summarize_arms(make_results(base, elsewhere))[1].step_ratio is None


def test_the_time_a_step_of_other_seeds_was_compared_too():
    runs = [make_run("base", 0, BASE), make_run("base", 1, BASE, step_s=5.0), make_run("arm", 0, FAST, step_s=1.0)]
    assert summarize_arms(make_results(*runs))[1].step_ratio == 2.0
    unpaired = [make_run("base", 0, BASE), make_run("arm", 1, FAST, step_s=1.0)]
    assert summarize_arms(make_results(*unpaired))[1].step_ratio == 2.0


def test_a_measured_time_a_step_stands_where_clock_times_cannot_be_compared():
    runs = make_run("base", 0, BASE), make_run("arm", 0, FAST, step_s=1.0)
    measured = {"base": 0.1, "arm": 0.16}
    assert summarize_arms(make_results(*runs), measured)[1].step_ratio == 2.0
    elsewhere = make_run("arm", 0, FAST, step_s=1.0, manifest={**CPU, "shared_by": 4})
    assert summarize_arms(make_results(runs[0], elsewhere), measured)[1].step_ratio == pytest.approx(1.6)


def test_learning_rates_and_weight_decay_that_differ_were_not_on_the_page():
    shared = {"learning_rate": 0.004, "weight_decay": 0.1, "beta1": 0.9, "steps": 800}
    runs = [make_run(arm, 0, losses) for arm, losses in (("base", BASE), ("arm", FAST))]
    trains = [shared, {**shared, "learning_rate": 0.016, "weight_decay": 0.0, "steps": 900}]
    lines = check_fairness(
        make_results(*(replace(run, config={"train": t}) for run, t in zip(runs, trains, strict=True)))
    )
    assert [line.recipe for line in lines] == [
        "learning_rate 0.004, weight_decay 0.1",
        "learning_rate 0.016, weight_decay 0",
    ]
    assert check_fairness(make_results(*runs))[0].recipe == "unknown"  # as in runs that only MLflow has


def test_runs_that_took_turns_at_a_gpu_are_flagged_and_their_times_not_compared():
    manifest = {"device": {"kind": "cuda", "name": "h"}, "gpus": 0.25, "shared_by": 4}
    runs = [make_run(arm, 0, losses, manifest=manifest) for arm, losses in (("base", BASE), ("arm", FAST))]
    results = make_results(*runs)
    assert summarize_arms(results)[1].step_ratio is None
    assert "the runs took turns at a GPU" in "; ".join(check_fairness(results)[1].flags)


def tuned(arms):
    results = make_results(make_run("base", 0, BASE), make_run("arm", 0, FAST))
    return replace(results, record=replace(results.record, tuning={"arms": arms}))


def test_tuning_shows_budget_space_and_best_and_flags_edges_and_unequal_budgets():
    space = {"train.learning_rate": "0.001 to 0.1, log"}
    base = {"trials": 8, "space": space, "best": {"train.learning_rate": "0.01"}, "at_edge": []}
    arm = {**base, "best": {"train.learning_rate": "0.099"}, "at_edge": ["train.learning_rate"]}
    first, second = check_fairness(tuned({"base": base, "arm": arm}))
    assert first.tuning == "train.learning_rate of 0.001 to 0.1, log: 0.01"
    assert first.flags == ()
    assert second.flags == ("its best train.learning_rate lies at the edge of 0.001 to 0.1, log",)
    _, second = check_fairness(tuned({"base": base, "arm": {**arm, "trials": 4, "at_edge": []}}))
    assert second.flags == ("tuned with 4 trials, its baseline with 8",)


@pytest.mark.parametrize("damaged", [[], {"arm": 3}, {"arm": {"space": [], "best": {}}}, {"arm": {"at_edge": 3}}])
def test_damaged_notes_on_tuning_count_as_unknown(damaged):
    assert [line.tuning for line in check_fairness(tuned(damaged))] == ["", ""]


@pytest.mark.parametrize(
    ("losses", "share"),
    [
        (BASE, None),
        ([4.0, 3.0, 1.1, 1.0], None),
        ([3.0, 3.0, 3.0, 3.0], 13),  # learns nothing
        ([4.0, 1.0, 2.0, 3.0], 16),  # memorizes: 2^(1/3) times step 100
    ],
)
def test_a_baseline_that_is_at_its_final_loss_long_before_its_end_is_flagged(losses, share):
    """An arm that is exactly as good would have a speedup there, because the baseline's cost is its whole budget."""
    runs = [make_run(arm, seed, losses) for arm in ("base", "arm") for seed in (0, 1)]
    wanted = [] if share is None else [f"already at its final loss after {share} % of its budget"]
    assert [flag.partition(",")[0] for flag in check(*runs)["base"].flags] == wanted
    (row,) = (row for row in speed_ups(make_results(*runs), ["final"]) if row.axis == "steps")
    assert row.ratio == (None if share else pytest.approx(1.0))
    assert not share or f"the baseline had that value after {share} % of the cost" in row.note
