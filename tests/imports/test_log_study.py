"""Files that other programs logged give the same verdicts as MLflow with the same numbers."""

from __future__ import annotations

from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
from log_writers import CHOSEN, WITH_CLOCK, WRITERS, make_runs, to_mlflow

from ablate.analysis import speed_ups
from ablate.analysis.results import Results
from ablate.analysis.selection import rebase
from ablate.analysis.summary import summarize_arms
from ablate.imports.log_study import read_log_study
from ablate.imports.mlflow import MlflowReader, read_mlflow_study
from ablate.imports.names import Names
from ablate.report.report import ReportOptions, make_report
from foreign_runs import Experiments

# MLflow and SQLAlchemy use deprecated calls of their own and of each other.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def read(folder: Path, **chosen: str) -> tuple[Results, list[str]]:
    lines: list[str] = []
    return read_log_study([str(folder)], Names(chosen), tell=lines.append), lines


@pytest.fixture(scope="module")
def straight(experiments: Experiments) -> Results:
    to_mlflow(make_runs(), experiments, "the same runs")
    return read_mlflow_study(MlflowReader(experiments.uri), "the same runs", Names({}))


NO_CLOCK: dict[str, Any] = {"step_s": None, "step_ratio": None, "tokens_per_s": None}


def judge(results: Results, axes: set[str]) -> Any:
    """Every number of the report: speedups with intervals, differences, bounds and p-values, final losses, answers."""
    based = rebase(results, {"arm": "gpt"})
    rows = {(row.arm, row.axis, row.target): astuple(row) for row in speed_ups(based) if row.axis in axes}
    unknown: dict[str, Any] = {} if "seconds" in axes else NO_CLOCK
    losses = {arm.arm: replace(arm, axes={}, device="", **unknown) for arm in summarize_arms(based)}
    report = make_report(based, ReportOptions(axis="tokens"))
    return rows, losses, report.answer[0]


@pytest.mark.parametrize("form", WRITERS)
def test_the_same_numbers_give_the_same_verdicts_as_in_mlflow(form: str, straight: Results, tmp_path: Path) -> None:
    WRITERS[form](make_runs(), tmp_path / "logs")
    found, _ = read(tmp_path / "logs", **CHOSEN.get(form, {}))
    axes = {"steps", "tokens"} | ({"seconds"} if form in WITH_CLOCK else set())
    assert {run.state for run in found.runs} == {"finished", "diverged"}
    rows, losses, answer = judge(found, axes)
    straight_rows, straight_losses, straight_answer = judge(straight, axes)
    assert rows == straight_rows
    assert losses == straight_losses
    assert answer.replace("arm=", "") == straight_answer
