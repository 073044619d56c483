"""Looks at a study with `until: decided`: they depend only on the curves, and the verdict stands at its look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from by_hand import make_results, make_run
from scipy.special import stdtrit

from ablate.analysis import Results
from ablate.analysis.differences import Difference, find_differences
from ablate.analysis.families import single_level
from ablate.analysis.looks import Course, follow
from ablate.analysis.run_curve import RunCurve
from ablate.analysis.selection import merge, select
from ablate.analysis.simulated_looks import take_looks
from ablate.analysis.spending import kept, level_at
from ablate.analysis.stricter import find_differences_at
from ablate.errors import AblateError
from ablate.report import ReportOptions
from ablate.report.report import make_report
from ablate.tracking.study_record import SeedRule, State

RULE = SeedRule(3, 8)
Ends = Mapping[str, Sequence[float | State | None]]


def run_of(arm: str, seed: int, end: float | State) -> RunCurve:
    """A run that ends at a loss, or in a state."""
    if isinstance(end, str):
        return make_run(arm, seed, [9.0, 8.0, 7.0, np.nan if end == "diverged" else 6.0], state=end)
    return make_run(arm, seed, [9.0, 8.0, 7.0, end])


def study(ends: Ends, rule: SeedRule = RULE, **changes: Any) -> Results:
    """Arms by how their runs end, one per seed; None where a run does not exist. No arm is equivalent by default."""
    runs = [run_of(arm, seed, end) for arm, row in ends.items() for seed, end in enumerate(row) if end is not None]
    return make_results(*runs, seed_rule=rule, **{"smallest_effect": 1e-6, **changes})


def draw(n_seeds: int, **shifts: float) -> dict[str, list[float]]:
    rng = np.random.default_rng(5)
    return {arm: list(3 + shift + rng.normal(0, 0.01, n_seeds)) for arm, shift in {"base": 0.0, **shifts}.items()}


def seen(course: Course) -> list[tuple[int, dict[str, str]]]:
    return [(look.seeds, {row.arm: row.verdict for row in look.arms}) for look in course.looks]


def test_arms_leave_when_they_are_decided_and_keep_their_verdict() -> None:
    ends = draw(8, far=0.5, near=0.03, same=0.0)
    course = follow(study(ends), RULE)
    assert seen(course)[0][1]["far"] == "worse" and "far" not in dict(seen(course))[4]
    assert course.open == {"base": ()} and course.standings["same"].seeds == (3, 4, 5, 6, 7, 8)
    # Further seeds of an arm that has left change nothing, whatever they say.
    turned = follow(study({**ends, "far": [*ends["far"][:3], *[1.0] * 5]}), RULE)
    assert seen(turned) == seen(course)
    row = next(row for row in find_differences(study({**ends, "far": [*ends["far"][:3], 1.0]})) if row.arm == "far")
    assert (row.verdict, row.n, row.n_seeds) == ("worse", 3, 3)


def test_the_order_in_which_runs_ended_does_not_matter() -> None:
    results = study(draw(8, far=0.5, near=0.03, same=0.0))
    shuffled = replace(results, runs=tuple(np.random.default_rng(0).permutation(np.array(results.runs, object))))
    assert follow(shuffled, RULE).looks == follow(results, RULE).looks


def test_seeds_after_those_of_trials_count_before_the_first_look() -> None:
    """Without a look, only seeds below `at_most` counted, so a difference came from some of the pairs."""
    rule = SeedRule(3, 4, reserved=(0, 1, 2))
    results = study({"base": [None, None, None, 3.0, 3.0], "arm": [None, None, None, 3.1, 3.3]}, rule)
    for differences in (find_differences(results), find_differences_at(results, 0.01)):
        ((estimate, n, n_seeds),) = [(row.estimate, row.n, row.n_seeds) for row in differences]
        assert (estimate, n, n_seeds) == (pytest.approx(0.2), 2, None)


@pytest.mark.parametrize("state", ["failed", "running", "queued", None])
def test_a_look_waits_for_each_run_of_its_open_arms(state: State | None) -> None:
    ends: dict[str, list[Any]] = draw(8, far=0.5, same=0.0)
    whole = seen(follow(study(ends), RULE))
    ends["same"][4] = state
    assert seen(follow(study(ends), RULE)) == whole[:2]  # after 3 and 4 seeds
    ends["same"][4], ends["far"][4] = 3.0, state
    assert len(seen(follow(study(ends), RULE))) == 6  # it had left
    ends["base"][4] = state
    assert len(seen(follow(study(ends), RULE))) == 2


def test_a_run_that_was_cut_is_waited_for_until_it_is_trained_to_its_end() -> None:
    results = study(draw(4, same=0.0))
    cut = [
        replace(run, status=replace(run.status, n_steps=run.n_steps + 1)) if (run.arm, run.seed) == ("same", 2) else run
        for run in results.runs
    ]
    assert follow(Results(results.record, tuple(cut)), RULE).looks == []
    assert len(follow(results, RULE).looks) == 2


def test_a_diverged_run_forms_no_pair_and_delays_nothing() -> None:
    ends: dict[str, list[Any]] = draw(8, far=0.5, same=0.0)
    ends["same"][1] = ends["far"][0] = "diverged"
    course = follow(study(ends), RULE)
    first = {row.arm: row for row in course.looks[0].arms}
    assert (first["same"].n_pairs, first["far"].n_pairs) == (2, 2)
    assert course.standings["same"].pairs == (2, 3, 4, 5, 6, 7)
    lost = {**ends, "same": ["diverged"] * 8}
    course = follow(study(lost), RULE)
    assert course.open == {"base": ()} and "same" not in course.standings
    assert [row.verdict for look in course.looks for row in look.arms if row.arm == "same"] == ["undecided"] * 6


def test_each_baseline_has_its_own_looks() -> None:
    ends = {**draw(4, far=0.5), "base2": [3.0, 3.01, 2.99, 3.0], "same2": [3.01, 3.0, 3.0, None]}
    baselines = {"base": "base", "far": "base", "base2": "base2", "same2": "base2"}
    course = follow(study(ends, baseline=baselines), RULE)
    assert [(look.baseline, look.seeds) for look in course.looks] == [("base", 3), ("base2", 3)]
    assert course.open == {"base": (), "base2": ("same2",)} and course.next_look["base2"] == 4
    assert not course.is_open("base", "base") and course.is_open("base2", "base2")


def find(results: Results) -> dict[str, Difference]:
    return {row.arm: row for row in find_differences(results)}


def test_interval_p_value_and_verdict_agree_at_every_look() -> None:
    verdicts = set()
    rng = np.random.default_rng(3)
    for _ in range(25):
        ends = draw(int(rng.integers(3, 9)), **{f"arm{k}": float(rng.normal(0, 0.03)) for k in range(3)})
        ends = {arm: list(np.array(row) + rng.normal(0, 0.01, len(row))) for arm, row in ends.items()}
        for row in find(study(ends, smallest_effect=0.02)).values():
            assert row.low_simultaneous is not None and row.high_simultaneous is not None
            assert row.p_simultaneous is not None
            is_clear = row.low_simultaneous > 0 or row.high_simultaneous < 0
            assert is_clear == (row.verdict in ("better", "worse")) == (row.p_simultaneous < 0.05)
            assert row.low is not None and row.low_simultaneous < row.low
            verdicts.add(row.verdict)
    assert verdicts == {"better", "worse", "equivalent", "undecided"}


def test_the_interval_of_one_arm_is_computed_by_hand() -> None:
    losses = {"base": [3.0, 3.0, 3.0, 3.0], "arm": [3.02, 3.05, 2.98, 3.03]}
    row = find(study(losses, rule=SeedRule(3, 4)))["arm"]
    pairs = np.array([0.02, 0.05, -0.02, 0.03])
    level = level_at(kept(4) * 0.05, (3, 4), (3, 4), 4)
    half = stdtrit(3, 1 - level / 2) * pairs.std(ddof=1) / 2
    assert row.high == pytest.approx(pairs.mean() + half) and row.high == pytest.approx(row.high_simultaneous)
    assert (row.method, row.n_seeds) == ("paired t", 4)


def test_simulated_looks_are_those_of_studies() -> None:
    rng = np.random.default_rng(8)
    truth = np.array([0.0, 0.02, 0.06])
    losses = 3 + rng.normal(0, 0.01, (20, 4, 8))
    losses[:, 1:] += truth[:, None]
    lost = np.array([False, True, False])
    ends = take_looks(losses[:, 1:] - losses[:, :1], 3, 0.03, lost)
    for place, values in enumerate(losses):
        rows: dict[str, list[Any]] = {name: list(row) for name, row in zip("xabc", values, strict=True)}
        rows["b"][0] = "diverged"
        results = study(rows, baseline="x", smallest_effect=0.03)
        course = follow(results, RULE)
        for k, arm in enumerate("abc"):
            standing = course.standings[arm]
            assert (standing.verdict, standing.seeds[-1]) == (ends.verdict[place, k], ends.seeds[place, k])
            half = standing.half_width(1 - single_level(3))
            assert half == pytest.approx(ends.half_width[place, k])


def test_the_report_says_how_seeds_were_decided() -> None:
    results = study(draw(8, far=0.5, same=0.0))
    report = make_report(results, ReportOptions())
    told = " ".join(report.answer)
    assert "a look after each of 3 to 8 seeds" in told and "hold over all looks" in told
    assert "1 arm is decided, after 3 seeds" in told and "1 stays undecided after all 8" in told
    early = make_report(study({arm: row[:2] for arm, row in draw(8, far=0.5).items()}), ReportOptions())
    assert "No look has taken place yet" in " ".join(early.answer)
    assert [row.verdict for row in early.differences] == ["undecided"] and early.differences[0].low is None
    noted = replace(results.record, looks=tuple(look.to_dict() for look in follow(results, RULE).looks))
    assert make_report(Results(noted, results.runs), ReportOptions()).answer == report.answer
    changed = [{**look, "arms": [{**arm, "verdict": "better"} for arm in look["arms"]]} for look in noted.looks]
    answer = make_report(Results(replace(noted, looks=tuple(changed)), results.runs), ReportOptions()).answer
    assert any("differ from those that its curves give now" in sentence for sentence in answer)


def test_some_arms_of_a_study_are_judged_by_their_own_looks() -> None:
    results = study(draw(8, far=0.5, near=0.03, same=0.0))
    noted = replace(results.record, looks=tuple(look.to_dict() for look in follow(results, RULE).looks))
    some = select(Results(noted, results.runs), "arm == 'near'")
    assert some.record.looks == () and set(find(some)) == {"near"}
    assert not any("differ from" in sentence for sentence in make_report(some, ReportOptions()).answer)
    whole, single = find(results)["near"], find(some)["near"]
    assert whole.low_simultaneous is not None and single.low_simultaneous == single.low is not None
    assert whole.n_seeds is not None and single.n_seeds is not None and single.n_seeds <= whole.n_seeds


def test_studies_of_different_rules_are_not_merged() -> None:
    one, other = study(draw(4, a=0.1), name="one"), study(draw(4, a=0.1), rule=SeedRule(3, 5), name="other")
    with pytest.raises(AblateError, match="same rule"):
        merge([one, other])
