"""What the results of evaluations become: means, differences with verdicts, and crossings of capabilities."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

import jsonschema
import numpy as np
import pytest
from by_hand import STEPS, make_results, make_run
from scipy import stats

from ablate.analysis import Results, RunCurve
from ablate.analysis.capabilities import find_capabilities
from ablate.analysis.evaluations import AS_FACTOR, AT_CHANCE, EvaluationResult, compare_evaluations, find_failed
from ablate.metrics import Direction
from ablate.report.evaluation_tables import tabulate_evaluations
from ablate.report.markdown import write_markdown
from ablate.report.report import ReportOptions, make_report
from ablate.report.sections import compose
from ablate.report.summary import summarize
from ablate.tracking.evaluations import EvaluationRecord, EvaluationRow

SEEDS = (0, 1, 2)
SCHEMA = json.loads(resources.files("ablate.report").joinpath("summary.schema.json").read_text())


def record(rows: Sequence[EvaluationRow], step: int = STEPS[-1], **changes: Any) -> EvaluationRecord:
    direction: Direction | None = changes.pop("direction", "higher")
    metrics = {row.metric: direction for row in rows}
    return EvaluationRecord("recall", changes.pop("label", "recall"), 1, "w", step, metrics, tuple(rows), **changes)


def accuracy(value: float | None, pairs: int = 4, error: float | None = 0.01, **changes: Any) -> EvaluationRow:
    return EvaluationRow("accuracy", value, changes.pop("n", 100), {"pairs": pairs}, error, 0.25, **changes)


def run_with(arm: str, seed: int, *records: EvaluationRecord) -> RunCurve:
    return replace(make_run(arm, seed, [4.0, 3.5, 3.2, 3.0 + 0.01 * seed]), evaluations=tuple(records))


def study_of(values: Mapping[str, Sequence[float]], **changes: Any) -> Results:
    """One recall accuracy per seed for each arm; the first arm is the baseline."""
    return make_results(
        *(
            run_with(arm, seed, record([accuracy(value, **changes)]))
            for arm, found in values.items()
            for seed, value in enumerate(found)
        )
    )


def by_arm(results: Results) -> dict[str, EvaluationResult]:
    return {row.arm: row for row in compare_evaluations(results)}


def savings_of(
    values: Mapping[str, Sequence[float | None]], name: str = "own", **changes: Any
) -> Mapping[str, EvaluationResult]:
    """The results of a factor, with one value per seed for each arm."""
    rows = {"is_factor": True} | changes
    runs = []
    for arm, found in values.items():
        for seed, value in enumerate(found):
            row = EvaluationRow("saving", value, 10, **({} if value is None else rows))
            runs.append(run_with(arm, seed, replace(record([row]), name=name)))
    return by_arm(make_results(*runs))


def test_factors_are_averaged_by_their_logarithms() -> None:
    row = savings_of({"base": [4.0, 8.0, 16.0]})["base"]
    interval = stats.ttest_1samp(np.log([4.0, 8.0, 16.0]), 0).confidence_interval()
    assert row.mean == pytest.approx(8.0) and AS_FACTOR in row.note
    assert (row.low, row.high) == pytest.approx((np.exp(interval.low), np.exp(interval.high)))
    assert savings_of({"base": [4.0, 8.0, 16.0]}, is_factor=False)["base"].mean == pytest.approx(28 / 3)
    assert savings_of({"base": [-1.0, 1.0]})["base"].mean == 0.0  # no factor, whatever its row says
    wide = savings_of({"base": [1e-90, 1e90]})["base"]
    assert wide.mean == pytest.approx(1.0) and wide.low is None


@pytest.mark.parametrize("values", [[4.0, 16.0, None], [None, 4.0, 16.0]])
def test_a_run_that_could_not_be_measured_does_not_make_it_something_else(values: Sequence[float | None]) -> None:
    assert savings_of({"base": values})["base"].mean == pytest.approx(8.0)


def test_the_difference_of_factors_is_their_ratio() -> None:
    base, arm = [4.0, 8.0, 16.0], [32.0, 32.0, 40.0]
    row = savings_of({"base": base, "arm": arm})["arm"]
    expected = stats.ttest_rel(np.log(arm), np.log(base))
    interval = expected.confidence_interval()
    assert row.difference == pytest.approx(np.exp(np.mean(np.log(arm)) - np.mean(np.log(base))))
    assert (row.difference_low, row.difference_high) == pytest.approx((np.exp(interval.low), np.exp(interval.high)))
    assert (row.p_value, row.verdict) == (pytest.approx(expected.pvalue), "better")
    halved = savings_of({"base": [8.0, 8.1, 8.2, 8.0], "arm": [4.0, 4.1, 4.1, 4.0]})["arm"]
    assert halved.difference == pytest.approx(0.5, rel=0.01) and halved.verdict == "worse"
    (table,) = tabulate_evaluations(tuple(savings_of({"base": base, "arm": arm}).values()))
    assert any("4.31x [" in cell for cells in table.rows for cell in cells) and "ratio of arm to baseline" in table.note


def test_savings_of_earlier_records_are_factors_too() -> None:
    values: Mapping[str, Sequence[float]] = {"base": [4.0, 16.0]}
    assert savings_of(values, "pruned_cache", is_factor=False)["base"].mean == pytest.approx(8.0)


def test_evaluations_that_failed_are_named_until_they_succeed() -> None:
    failed = replace(record([]), error="Traceback\nValueError: too short")
    good = record([accuracy(0.5)])
    runs = [
        run_with("base", 0, good),
        run_with("base", 1, failed),
        run_with("arm", 0, good),
        run_with("arm", 1, failed, good),
    ]
    results = make_results(*runs)
    (found,) = find_failed(results)
    assert (found.arm, found.seed, found.evaluation, found.error) == ("base", 1, "recall", "ValueError: too short")
    report = make_report(results, ReportOptions())
    assert "1 evaluation failed, so" in report.answer[-1]
    page = write_markdown(compose(report), {}, "s")
    assert "ValueError: too short" in page and "Seeds: base 1, arm 2." in page
    jsonschema.validate(summary := summarize(report), SCHEMA)
    assert [entry["arm"] for entry in summary["failed_evaluations"]] == ["base"]


def test_means_and_differences_are_the_paired_t_over_seeds() -> None:
    base, arm = [0.60, 0.64, 0.66], [0.70, 0.75, 0.74]
    rows = by_arm(study_of({"base": base, "arm": arm}))
    expected = stats.ttest_rel(arm, base)
    interval = expected.confidence_interval()
    row = rows["arm"]
    assert row.difference == pytest.approx(np.mean(arm) - np.mean(base))
    assert (row.difference_low, row.difference_high) == pytest.approx((interval.low, interval.high))
    assert row.p_value == row.p_holm == pytest.approx(expected.pvalue)
    assert row.verdict == "better"
    low, high = stats.t.interval(0.95, 2, np.mean(arm), stats.sem(arm))
    assert (row.mean, row.low, row.high) == pytest.approx((np.mean(arm), low, high))
    assert (row.n, row.n_items, row.item_error, row.chance) == (3, 100, pytest.approx(0.01), 0.25)
    assert rows["base"].difference is rows["base"].verdict is None


def test_holm_counts_every_cell_and_arm_of_one_evaluation() -> None:
    draw = np.random.default_rng(0)
    runs = []
    for arm, shift in (("base", 0.0), ("arm", 0.1)):
        for seed in range(5):
            rows = [accuracy(0.6 + shift * (pairs == 2) + 0.02 * draw.standard_normal(), pairs) for pairs in (2, 4, 8)]
            other = record([accuracy(0.5 + 0.01 * draw.standard_normal())], label="needle")
            runs.append(run_with(arm, seed, record(rows), other))
    rows = [row for row in compare_evaluations(make_results(*runs)) if row.arm == "arm"]
    recall = sorted((row for row in rows if row.evaluation == "recall"), key=lambda row: row.p_value or 0.0)
    for place, row in enumerate(recall):
        adjusted = max((r.p_value or 0.0) * (len(recall) - i) for i, r in enumerate(recall[: place + 1]))
        assert row.p_holm == pytest.approx(min(1.0, adjusted))
    needle = next(row for row in rows if row.evaluation == "needle")
    assert needle.p_holm == needle.p_value
    assert [row.verdict for row in recall] == ["better", "undecided", "undecided"]
    assert recall[0].within == {"pairs": 2}


def test_no_difference_is_claimed_where_both_arms_only_guess() -> None:
    rows = by_arm(study_of({"base": [0.245, 0.246, 0.247], "arm": [0.255, 0.2561, 0.257]}))
    row = rows["arm"]
    assert row.p_holm is not None
    assert row.p_holm < 0.001
    assert row.is_at_chance
    assert rows["base"].is_at_chance
    assert row.verdict == "undecided"
    assert AT_CHANCE in row.note
    above = by_arm(study_of({"base": [0.245, 0.246, 0.247], "arm": [0.90, 0.91, 0.92]}))["arm"]
    assert above.is_at_chance is False
    assert above.verdict == "better"


def test_accuracies_without_scatter_are_judged_by_the_noise_of_their_items() -> None:
    small = by_arm(study_of({"base": [0.50] * 3, "arm": [0.52] * 3}, error=0.05))["arm"]
    assert small.verdict == "undecided"
    large = by_arm(study_of({"base": [0.50] * 3, "arm": [1.0] * 3}, error=0.03))["arm"]
    assert large.verdict == "better"


def test_an_arm_is_equivalent_only_if_the_smallest_difference_that_matters_is_known() -> None:
    results = study_of({"base": [0.60, 0.61, 0.62], "arm": [0.601, 0.612, 0.6205]})
    assert by_arm(results)["arm"].verdict == "undecided"
    record = replace(results.record, smallest_results={"recall": {"accuracy": 0.02}})
    row = by_arm(replace(results, record=record))["arm"]
    assert (row.verdict, row.is_small) == ("equivalent", True)
    record = replace(results.record, smallest_results={"recall": {"accuracy": 0.001}})
    assert by_arm(replace(results, record=record))["arm"].verdict == "undecided"


def test_one_seed_decides_nothing() -> None:
    row = by_arm(study_of({"base": [0.5], "arm": [0.9]}))["arm"]
    assert row.difference == pytest.approx(0.4)
    assert row.low is row.difference_low is row.p_value is None
    assert row.verdict == "undecided"


def test_a_metric_without_a_better_direction_has_no_verdict() -> None:
    runs = [
        run_with(a, s, record([accuracy(v + s / 100)], direction=None))
        for a, v in (("base", 0.1), ("arm", 0.9))
        for s in SEEDS
    ]
    row = by_arm(make_results(*runs))["arm"]
    assert row.difference == pytest.approx(0.8)
    assert row.verdict is row.p_value is None


def test_a_cell_that_was_not_evaluated_has_the_reason_and_no_number() -> None:
    rows = by_arm(study_of({"base": [None] * 3, "arm": [None] * 3}, n=0, error=None, note="too long"))  # type: ignore[list-item]
    assert rows["arm"].mean is rows["arm"].difference is rows["arm"].verdict is None
    assert (rows["arm"].n, rows["arm"].note) == (0, "too long")


def test_only_the_newest_version_of_an_evaluation_counts() -> None:
    old, new = record([accuracy(0.1)], code="a", ended_at=1.0), record([accuracy(0.9)], code="b", ended_at=2.0)
    failed = record([], error="it failed", ended_at=3.0)
    runs = [run_with("base", 0, old), run_with("arm", 0, old, new, failed)]
    rows = by_arm(make_results(*runs))
    assert rows.keys() == {"arm"}
    assert rows["arm"].mean == 0.9


def test_a_capability_is_reached_where_its_curve_crosses_the_baselines_final_value() -> None:
    """The arm has the baseline's final accuracy of 0.8 after half of its steps; its loss is the baseline's."""
    runs = []
    for seed in SEEDS:
        for arm, values in (("base", (0.3, 0.4, 0.6, 0.8)), ("arm", (0.4, 0.6, 0.8, 0.9))):
            points = zip(STEPS, values, strict=True)
            runs.append(run_with(arm, seed, *(record([accuracy(value)], step) for step, value in points)))
    results = make_results(*runs)
    rows = {row.speedup.axis: row for row in find_capabilities(results)}
    assert rows["steps"].speedup.ratio == pytest.approx(2.0)
    assert rows["tokens"].speedup.ratio == pytest.approx(2.0)
    assert (rows["steps"].metric, rows["steps"].within, rows["steps"].points) == ("accuracy", {"pairs": 4}, 4)
    late = (replace(run, evaluations=run.evaluations[1:]) if run.arm == "arm" else run for run in results.runs)
    assert {row.points for row in find_capabilities(make_results(*late))} == {3}
    guessing = make_results(
        *(
            replace(run, evaluations=tuple(_lower(r) for r in run.evaluations))
            for run in results.runs
            if run.arm == "base"
        ),
        *(run for run in results.runs if run.arm == "arm"),
    )
    refused = find_capabilities(guessing)
    assert {row.speedup.note for row in refused} == {"the baseline ends at chance"}
    assert {row.speedup.ratio for row in refused} == {None}


def _lower(found: EvaluationRecord) -> EvaluationRecord:
    return replace(found, rows=tuple(replace(row, value=0.25) for row in found.rows))
