"""Runs of other programs: a value that cannot be established is left out with a note, and never becomes a ratio."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from logged_runs import DAY, STEPS, Lab, Points, fast, slow

from ablate.analysis.fairness import check_fairness
from ablate.analysis.selection import rebase
from ablate.analysis.summary import summarize_arms
from ablate.errors import RecordError
from ablate.imports.logged_run import History
from ablate.imports.metric_curve import settle
from ablate.report.report import ReportOptions, make_report
from ablate.report.summary import summarize
from ablate.tracking.values import read_level

TWICE = pytest.approx(2.0, abs=0.05)


def pairs(arms: tuple[str, ...] = ("gpt", "new"), **facts: object) -> Lab:
    lab = Lab()
    for seed in range(3):
        for arm in arms:
            lab.train(arm, seed, **facts)  # type: ignore[arg-type]
    return lab


def caveats(lab: Lab) -> str:
    """The notes that the reader sees beside the verdict."""
    report = make_report(rebase(lab.read(), {"arm": "gpt"}), ReportOptions())
    assert all(caveat in report.answer[-1] for caveat in report.record.caveats[1:])
    return report.answer[-1].lower()


# Requeued trainings


@pytest.mark.parametrize("requeued", [(0,), (0, 1, 2)])
@pytest.mark.parametrize(("cut", "resumed"), [(1000, 1000), (1000, 1100), (1000, 800), (400, 400)])
def test_the_halves_of_a_requeued_training_are_one_training(requeued: tuple[int, ...], cut: int, resumed: int) -> None:
    lab = pairs(("gpt",), tokens_per_step=1000)
    for seed in range(3):
        if seed in requeued:
            lab.train("new", seed, 0, cut, 1.25, "failed", tokens_per_step=1000)
            lab.train("new", seed, resumed, 2000, 1.25, tokens_per_step=1000)
        else:
            lab.train("new", seed, 0, 2000, 1.25, tokens_per_step=1000)
    assert lab.compare("steps").ratio == lab.compare("tokens").ratio == TWICE
    lost = (cut - resumed) * 1.25 if resumed < cut else 0.0  # both clocks count, so lost work counts too
    seconds = [run for run in lab.read().runs if run.arm == "new"][requeued[0]].cost("seconds")
    assert seconds[-1] == pytest.approx(2000 * 1.25 + lost, abs=130)
    assert (np.diff(seconds) >= 0).all()
    if cut == resumed:
        assert lab.compare("seconds").ratio == pytest.approx(1.6, abs=0.01)
    assert "joined from runs that continue each other" in caveats(lab)


@pytest.mark.parametrize("begins_at", [1000, 1500])
def test_a_second_half_without_its_first_is_no_ratio_of_401(begins_at: int) -> None:
    lab = pairs(("gpt",))
    for seed in range(3):
        if begins_at == 1500:  # the steps in between are missing
            lab.train("new", seed, 0, 500, state="failed")
        lab.train("new", seed, begins_at, 2000)
    row = lab.compare("seconds")
    assert (row.ratio, row.low, row.high, row.bound) == (None, None, None, "not_determined")
    assert f"new (seeds 0, 1, 2): left out, because the curve lacks its beginning: it starts at step {begins_at:,}" in (
        caveats(lab)
    )


def test_a_pair_whose_run_lacks_its_beginning_is_left_out_of_the_rest() -> None:
    lab = pairs(("gpt",))
    for seed in range(3):
        lab.train("new", seed, 1000 if seed == 0 else 0)
    row = lab.compare()
    assert (row.ratio, row.n_pairs) == (TWICE, 2)
    assert "1 run of this arm left out (incomplete curve)" in row.note


def test_a_first_evaluation_that_comes_late_is_no_missing_beginning_where_the_clock_has_run() -> None:
    lab = Lab()
    for seed in range(3):
        lab.train("gpt", seed)
        lab.train("new", seed, 1000, clock=lambda step: step + 5)
    assert [run.flaw for run in lab.read().runs] == [""] * 6


# Several runs of one arm and seed


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"test/loss": [(2000, 1.0, 3)]},
        {"val/loss": [(2000, 0.5, 3)]},
        {"train_loss": [(1, 9.0, 3)]},
        {"val/loss": [(0, 5.0, 1), (2, 4.9, 2)]},
        {"val/loss": [(0, 5.0, 1), (100, math.nan, 2)]},
    ],
)
@pytest.mark.parametrize("state", ["finished", "failed", "running"])
def test_an_empty_or_smoke_run_takes_no_place_of_the_real_one(curves: dict[str, Points], state: str) -> None:
    lab = pairs()
    is_diverged = state != "running" and any(math.isnan(p[1]) for points in curves.values() for p in points)
    for seed in range(3):
        lab.log(curves, {"arm": "new", "seed": seed}, state)  # type: ignore[arg-type]
    if is_diverged:  # it ended normally and is the latest, so leaving it out would select the better run
        assert lab.compare().bound == "at_most"
        return
    assert (lab.compare().ratio, lab.compare().n_pairs) == (TWICE, 3)
    assert lab.read().record.data["passed over"] == "3 later runs without a whole curve"
    assert "replaced" not in lab.read().record.data


def test_of_two_whole_runs_the_latest_counts() -> None:
    lab = pairs()
    again = [lab.train("new", seed) for seed in range(3)]
    results = lab.read()
    assert [run.run_id for run in results.runs_of("new")] == again
    assert results.record.data["replaced"] == "3 runs by a later one of its arm and seed"


def test_a_parent_with_the_params_of_its_children_is_no_run() -> None:
    lab = Lab()
    parent = lab.log({"val/loss": [(0, 1.0, 1)]}, {"arm": "new"})
    for seed in range(2):
        lab.train("gpt", seed)
        lab.log(
            {"val/loss": [(s, fast(s) + seed / 100, s) for s in STEPS]}, {"arm": "new", "seed": seed}, parent=parent
        )
    assert len(lab.read().runs) == 4
    assert lab.compare().note == ""


# Points that count


def history(*points: tuple[float, float]) -> History:
    """Points (step, time)."""
    steps, times_s = np.array(points, float).T
    return History(steps, times_s, np.arange(steps.size, dtype=float))


@pytest.mark.parametrize(
    ("points", "kept"),
    [
        ([(0, 0), (100, 1), (200, 2), (100, 3), (200, 4), (300, 5)], [0, 3, 4, 5]),
        ([(0, 0), (100, 1), (200, 2), (300, 3), (150, 4), (250, 5)], [0, 1, 4, 5]),  # at different steps than before
        ([(0, 0), (100, 1), (200, 2), (300, 3), (0, 4), (100, 5)], [4, 5]),
        ([(0, 0), (100, 1), (200, 2), (300, 3), (100, 4)], [0, 4, 2, 3]),  # the best checkpoint is evaluated again
        ([(0, 0), (100, 1), (100, 2), (200, 3)], [0, 2, 3]),
    ],
)
def test_a_rollback_drops_the_points_that_it_undid(points: list[tuple[float, float]], kept: list[float]) -> None:
    assert settle(history(*points)).values.tolist() == kept


def test_a_rollback_that_another_metric_shows_undoes_the_evaluation_too() -> None:
    lab = Lab()
    train = [(s, 1.0, s) for s in range(0, 1900, 10)] + [(s, 1.0, 1000 + s) for s in range(1500, 1780, 10)]
    losses = [(s, slow(s), s + 1) for s in STEPS if s <= 1800]
    lab.log({"val/loss": losses, "train_loss": train}, {"arm": "gpt", "seed": 0})
    (run,) = lab.read().runs
    assert run.columns["step"][np.isfinite(run.columns["val_loss"])].tolist() == list(range(0, 1501, 100))


def test_a_clock_that_was_set_back_drops_no_point_and_gives_no_seconds() -> None:
    lab = Lab()
    for seed in range(3):
        lab.train("gpt", seed)
        points = [(s, fast(s) + seed / 100, s + 5 - (500 if s > 1000 else 0)) for s in STEPS]
        lab.log({"val/loss": sorted(points, key=lambda p: p[2])}, {"arm": "new", "seed": seed, "device": "A100"})
    assert lab.compare().ratio == TWICE
    row = lab.compare("seconds")
    assert (row.ratio, row.low) == (None, None) and "the clock was changed" in row.note


# Costs


@pytest.mark.parametrize(
    ("clock", "reason"),
    [
        (lambda step: step + 5 + (DAY if step > 1000 else 0), "the clock jumps"),  # it waited in a queue
        (lambda step: step / 4000, "points were logged all at once"),
        (lambda step: step / 20, ""),  # a faster device is not an error
        (lambda step: step / 50, "too little per step"),
        (lambda _: 5.0, "the clock does not grow"),
    ],
)
def test_a_clock_that_is_not_the_trainings_gives_no_ratio_in_seconds(
    clock: Callable[[float], float], reason: str
) -> None:
    lab = Lab()
    for seed in range(3):
        lab.train("gpt", seed)
        lab.train("new", seed, clock=clock)
    assert lab.compare().ratio == TWICE
    row = lab.compare("seconds")
    assert (row.ratio is None) == bool(reason) and reason in row.note
    assert not reason or "seconds left out" in caveats(lab)


def test_time_before_the_first_step_is_no_cost_or_none_is_known() -> None:
    lab = pairs(("gpt",))
    for seed in range(3):
        lab.train("new", seed, clock=lambda step: 3600 + step)  # it prepared data for an hour
    assert lab.compare("seconds").ratio == TWICE
    lab = pairs(("gpt",))
    for seed in range(3):
        lab.train("new", seed, 100, clock=lambda step: 3600 + step)
    assert lab.compare("seconds").note.endswith("the clock does not begin where the training begins")


@pytest.mark.parametrize("unit", [1e3, 1024, 1e6])
def test_thousands_of_tokens_beside_tokens_gave_a_ratio_of_2000(unit: float) -> None:
    lab = Lab()
    for seed in range(3):
        for arm, size in (("gpt", 4e6), ("new", 4e6 / unit)):
            lab.train(arm, seed, more={"tokens": [(step, size * step, step + 5.0) for step in STEPS]})
    assert (lab.compare("steps").ratio, lab.compare("tokens").ratio) == (TWICE, None)
    assert "tokens left out (too little per step compared with the other runs" in caveats(lab)


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (lambda step: 1000.0 * step, ""),
        (lambda step: 1000.0 * (step + 1), ""),  # the first step is called 0
        (lambda _: 1000.0, "the count does not grow with the steps"),  # a curve of one step
        (lambda step: 1000.0 * (step % 1000), "the count goes back"),  # the count starts again after a resume
        (lambda step: 1e7 + 1000.0 * step, "the count does not begin where the training begins"),
        (lambda step: 1000.0 * step + (1e6 if step > 500 else 0), "the count jumps"),
        (lambda step: step / 1e4, "too little per step"),  # millions of tokens, next to tokens
    ],
)
def test_tokens_that_are_not_those_of_the_training_give_no_ratio(tokens: Callable[[float], float], reason: str) -> None:
    lab = Lab()
    for seed in range(3):
        lab.train("gpt", seed, tokens_per_step=1000)
        lab.train("new", seed, more={"tokens": [(s, tokens(s), s) for s in STEPS]})
    row = lab.compare("tokens")
    assert row.ratio == (None if reason else TWICE) and reason in row.note
    assert not reason or "tokens left out" in caveats(lab)


def test_seconds_are_of_one_kind_in_all_runs() -> None:
    """Training time in one arm and time including evaluation in the other must not form a ratio."""
    lab = Lab()
    for seed in range(3):
        lab.train("gpt", seed)
        lab.train("new", seed, more={"wall_s": [(s, s / 4, s) for s in STEPS]})
    assert lab.compare("seconds").ratio == TWICE
    assert "3 runs without a usable wall_s" in lab.read().record.data["seconds"]


# Steps of different units


def epochs(lab: Lab, arm: str, seed: int, loss: Callable[[float], float], train: bool, **facts: object) -> None:
    """Evaluated once per epoch of 100 steps, logged by epoch number."""
    curves = {"val/loss": [(e, loss(100 * e) + seed / 100, 100 * e + 2) for e in range(1, 21)]}
    if train:
        curves["train_loss"] = [(s, loss(s), s + 1) for s in range(0, 2001, 20)]
    lab.log(curves, {"arm": arm, "seed": seed, "device": "A100", "tokens_per_step": 1000, **facts})


@pytest.mark.parametrize("facts", [{}, {"max_steps": 2000}, {"max_epochs": 20, "max_steps": 2000}])
def test_epochs_beside_training_steps_are_said_and_no_tokens_made_of_them(facts: dict[str, int]) -> None:
    lab = Lab()
    for seed in range(3):
        epochs(lab, "gpt", seed, slow, "max_epochs" not in facts, **facts)
        epochs(lab, "new", seed, fast, "max_epochs" not in facts, **facts)
    results = rebase(lab.read(), {"arm": "gpt"})
    assert {(run.state, run.n_steps) for run in results.runs} == {("finished", 20)}
    assert lab.compare("steps").ratio == TWICE
    assert lab.compare("tokens").ratio is None
    assert {arm.n_tokens for arm in summarize_arms(results)} == {None}
    said = caveats(lab)
    assert "the validation loss counts epochs" in said and "tokens left out" in said


@pytest.mark.parametrize("train", [True, False])
def test_steps_of_one_arm_are_not_compared_with_epochs_of_the_other(train: bool) -> None:
    lab = Lab()
    for seed in range(3):
        more = {"train_loss": [(float(s), 1.0, s + 5.0) for s in range(0, 2001, 20)]} if train else {}
        lab.train("gpt", seed, more=more, tokens_per_step=1000)
        epochs(lab, "new", seed, fast, train)
    row = lab.compare()
    assert (row.ratio, row.low, row.high) == (None, None, None)
    assert row.note == "steps: the runs count them in different units"
    assert lab.compare("tokens").ratio is None
    assert lab.compare("seconds").ratio == pytest.approx(2.0, abs=0.1)
    assert not any(
        "steps" in flag for line in check_fairness(rebase(lab.read(), {"arm": "gpt"})) for flag in line.flags
    )


def test_different_budgets_are_flagged_where_tokens_are_not_known() -> None:
    lab = pairs(("gpt",))
    for seed in range(3):
        lab.train("new", seed, last=1000)
    flags = [flag for line in check_fairness(rebase(lab.read(), {"arm": "gpt"})) for flag in line.flags]
    assert "trained for 1,000 steps, its baseline for 2,000" in flags


# Names and what they mean


def test_two_spellings_of_the_loss_count_in_one_study() -> None:
    for choose in (lambda arm, _: arm == "gpt", lambda _, seed: seed == 0):
        lab = Lab()
        for seed in range(3):
            for arm in ("gpt", "new"):
                lab.train(arm, seed, metric="val_loss" if choose(arm, seed) else "val/loss")
        assert (lab.compare().ratio, lab.compare().n_pairs) == (TWICE, 3)
        assert "val_loss (" in lab.read().record.data["loss"]


def test_of_two_names_in_one_run_the_whole_curve_counts() -> None:
    lab = Lab()
    for seed in range(3):
        for arm in ("gpt", "new"):
            lab.train(arm, seed, metric="val_loss", more={"val/loss": [(0, 9.0, 1), (1, 9.0, 2)]})
    assert lab.compare().ratio == TWICE


@pytest.mark.parametrize("text", ["None", "none", "null", "nan", "NaN", "", " "])
def test_a_seed_that_is_none_is_not_known(text: str) -> None:
    lab = Lab()
    for seed in range(3):
        for arm in ("gpt", "new"):
            lab.train(arm, text if seed == 0 else seed)
    assert (lab.compare().ratio, lab.compare().n_pairs) == (TWICE, 2)
    assert lab.read().record.data["seeds"].startswith("not known")


@pytest.mark.parametrize("text", ["0x2a", "1.5", "twelve", "True"])
def test_a_seed_that_is_no_whole_number_is_one_message(text: str) -> None:
    lab = pairs()
    lab.train("new", text)
    with pytest.raises(RecordError, match=f"run run-6: its seed is '{text}', which is not a whole number"):
        lab.read()


@pytest.mark.parametrize(
    ("texts", "level"),
    [
        (("1e-3", "0.001", "1.0E-03", "+.001"), 0.001),
        (("1", "1.0", "1e0"), 1),
        (("True", "true"), True),
        (("007",), "007"),
        (("0x10",), "0x10"),
        (("nan",), "nan"),
        (("1e999",), "1e999"),
    ],
)
def test_levels_are_compared_by_what_they_mean_with_their_types(texts: tuple[str, ...], level: object) -> None:
    read = [read_level(text) for text in texts]
    assert read == [level] * len(texts)
    assert {type(value) is bool for value in read} == {type(level) is bool}


def test_one_level_written_in_two_ways_is_one_arm_and_one_is_not_true() -> None:
    lab = Lab()
    for seed, text in enumerate(("1e-3", "0.001", "1", "True", "true")):
        lab.log({"val/loss": [(s, slow(s), s) for s in STEPS]}, {"arm": text, "seed": seed})
    results = lab.read()
    assert {arm: len(results.runs_of(arm)) for arm in results.arms} == {"0.001": 2, "1": 1, "True": 2}
    assert [type(level) for level in results.record.axes["arm"]] == [float, int, bool]
    assert rebase(results, {"arm": "1e-3"}).baseline_of("1") == "0.001"
    assert rebase(results, {"arm": "true"}).baseline_of("1") == "True"


def test_sizes_that_are_not_known_are_null_and_never_0() -> None:
    summary = summarize(make_report(rebase(pairs().read(), {"arm": "gpt"}), ReportOptions()))
    for arm in summary["arms"]:
        assert (arm["n_params"], arm["flops_per_token"], arm["n_tokens"], arm["tokens_per_s"]) == (None,) * 4
    for line in summary["fairness"]:
        assert (line["params_ratio"], line["flops_ratio"], line["horizon_tokens"], line["flags"]) == (None,) * 3 + ([],)


def test_a_loss_logged_without_steps_is_left_out_beside_those_that_have_them() -> None:
    lab = pairs()
    lab.log({"val/loss": [(0, slow(s), s) for s in STEPS]}, {"arm": "new", "seed": 3})
    assert lab.compare().n_pairs == 3
    assert "logged without its steps" in caveats(lab)
