"""Arms that share a learning rate which none of them had tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from by_hand import make_results, make_run

from ablate.analysis import Results
from ablate.analysis.untuned import find_untuned
from ablate.report.report import ReportOptions, make_report
from ablate.report.tables import tabulate_fairness

ONE = {"base": 1e-3, "arm": 1e-3, "arm2": 1e-3}


def study(rates: Mapping[str, float | None], tuning: Mapping[str, Any] | None = None, trials: int = 0) -> Results:
    runs = [
        replace(
            make_run(arm, seed, [9, 8, 7, 3.0 + seed + len(arm)]),
            config={} if rate is None else {"train": {"learning_rate": rate}},
            manifest={"tuning_trials": trials} if trials else {},
        )
        for arm, rate in rates.items()
        for seed in range(2)
    ]
    results = make_results(*runs)
    return replace(results, record=replace(results.record, tuning=tuning or {}))


def test_a_shared_learning_rate_that_no_arm_tuned_is_said() -> None:
    found = find_untuned(study(ONE))
    assert found is not None and (found.arms, found.rates, found.is_all) == (("arm", "arm2"), (1e-3,), True)
    answer = make_report(study(ONE), ReportOptions()).answer
    assert "No arm was tuned: the verdicts hold for this learning rate only (0.001)." in answer[-1]
    note = tabulate_fairness(make_report(study(ONE), ReportOptions())).note
    assert note.endswith("tuning none.")  # the table said "not recorded" beside that sentence
    (one,) = [s for s in make_report(study({"base": 1e-3, "arm": 1e-3}), ReportOptions()).answer if "tuned" in s]
    assert one.endswith("No arm was tuned: the verdict holds for this learning rate only (0.001).")


def test_some_arms_may_have_their_own_learning_rate() -> None:
    found = find_untuned(study({**ONE, "arm2": 2e-3}))
    assert found is not None and (found.arms, found.is_all) == (("arm",), False)
    answer = make_report(study({**ONE, "arm2": 2e-3}), ReportOptions()).answer
    assert (
        "arm was not tuned, and neither was the baseline: the verdict holds for this learning rate only (0.001)."
        in answer[-1]
    )


@pytest.mark.parametrize(
    "results",
    [
        study({"base": 1e-3, "arm": 2e-3}),
        study(dict.fromkeys(ONE)),
        study(ONE, {"arms": {name: {"trials": 3} for name in ONE}}),
        study(ONE, {"arms": {"base": {"trials": 3}}}),
        study(ONE, trials=3),
    ],
    ids=["other rates", "unknown", "tuned", "baseline tuned", "trials in the manifest"],
)
def test_tuned_and_unknown_learning_rates_are_not_flagged(results: Results) -> None:
    assert find_untuned(results) is None


def test_an_axis_of_learning_rates_is_a_comparison_of_them() -> None:
    results = study(ONE)
    for axis in ("learning_rate", "train.learning_rate"):
        assert find_untuned(replace(results, record=replace(results.record, axes={axis: (1e-3, 2e-3)}))) is None
