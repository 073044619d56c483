"""The report in MLflow, attached to one parent run of the study's runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.analysis import speed_ups
from ablate.imports.mlflow import MlflowReader, read_mlflow_study
from ablate.imports.names import Names
from ablate.report import attach_report, write_report
from ablate.tracking.folders import StudyFolder
from ablate.tracking.mlflow_writer import MlflowWriter
from benchmarks.synthetic import SyntheticArm, write_study
from foreign_runs import Experiments

# MLflow and SQLAlchemy use deprecated calls of their own and of each other.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_the_parent_of_the_mirrored_runs_has_the_pages_and_the_figures(
    experiments: Experiments, tmp_path: Path
) -> None:
    store = StudyFolder(tmp_path / "attached")
    arms = [
        SyntheticArm(f"size={n},kind={kind}", {"size": n, "kind": kind}, f"size={n},kind=a", speedup=1 + (kind == "b"))
        for n in (1, 2)
        for kind in ("a", "b")
    ]
    record = write_study(store, arms, seeds=(0, 1), n_steps=100, noise=0.01)
    writer = MlflowWriter(experiments.uri, record)
    by_name = {arm.arm: arm for arm in record.arms}
    for run in record.runs:
        writer.catch_up(run, by_name[run.arm], store)

    made = write_report(store, tmp_path / "report")
    for _ in range(2):
        assert attach_report(made, experiments.uri) == ""
    client = experiments.client
    listed = client.search_runs([writer.experiment])
    (parent,) = (run for run in listed if "ablate.parent_of" in run.data.tags)
    assert len(listed) == 1 + len(record.runs)
    below = [run for run in listed if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(below) == len(record.runs)
    row = made.headline_of("size=2,kind=b")["tokens"]
    figures = parent.data.metrics
    assert (figures["speedup/tokens/b size-2"], figures["speedup/tokens/b size-2/low"]) == (row.ratio, row.low)
    assert figures["final_loss/a size-1"] == made.arms[0].final_loss.mean
    assert made.answer[0] in parent.data.tags["mlflow.note.content"]
    page = client.download_artifacts(parent.info.run_id, "report/report.html", str(tmp_path))
    assert Path(page).read_bytes() == made.paths["html"].read_bytes()
    names = {file.path for file in client.list_artifacts(parent.info.run_id, "report/figures")}
    assert names == {f"report/figures/{name}.svg" for name in ("differences", "curves", "minus-baseline", "speedup")}

    again = read_mlflow_study(MlflowReader(experiments.uri), "attached", Names({}))
    assert {arm.arm: (arm.axes, arm.baseline) for arm in again.record.arms} == {
        arm.arm: (arm.axes, arm.baseline) for arm in arms
    }
    straight = {(r.arm, r.axis, r.target): r.ratio for r in made.rows if r.axis != "seconds"}
    assert {(r.arm, r.axis, r.target): r.ratio for r in speed_ups(again) if r.axis != "seconds"} == pytest.approx(
        straight
    )


def test_an_mlflow_that_is_away_is_an_excuse_without_the_password(tmp_path: Path) -> None:
    store = StudyFolder(tmp_path / "alone")
    write_study(store, [SyntheticArm("baseline")], seeds=(0,), n_steps=40)
    excuse = attach_report(write_report(store, tmp_path / "report"), "http://ann:hunter2@127.0.0.1:9")
    assert excuse.startswith("MLflow at http://127.0.0.1:9 does not have the report (")
    assert "hunter2" not in excuse and "\n" not in excuse
