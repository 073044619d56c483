"""`ablate run` in a subprocess, with real workers and signals. The study ends bit for bit like an undisturbed one."""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest
from processes import PATIENCE_S, Curves, assert_is_mirrored, curves, is_in_mid_run, mirrored, run, start, wait_until

from ablate.tracking.folders import StudyFolder

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Story:
    """A study that Ctrl-C interrupted and the same command finished."""

    runs: Path
    interrupted: str
    states_between: tuple[str, ...]
    output: str
    error_output: str


@pytest.fixture(scope="module")
def story(process_grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    runs = tmp_path_factory.mktemp("runs")
    process = start("run", process_grid, "--runs", runs)
    wait_until(lambda: is_in_mid_run(runs), process)
    process.send_signal(signal.SIGINT)
    interrupted, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, interrupted
    store = StudyFolder(runs / "tiny")
    states = tuple(store.run(entry.run_id).read_status().state for entry in store.read_study().runs)
    result = run("run", process_grid, "--runs", runs)
    assert result.returncode == 0, result.stdout + result.stderr
    return Story(runs, interrupted, states, result.stdout, result.stderr)


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(story: Story) -> None:
    assert "Traceback" not in story.interrupted
    assert re.search(r"resume with: .*run .*grid\.yaml", story.interrupted)
    assert "queued" in story.states_between
    assert "running" not in story.states_between


def test_every_run_is_trained_with_the_same_steps(story: Story, undisturbed_curves: Curves) -> None:
    assert "[4/4]" in story.output
    assert "ray" not in story.error_output.lower()
    found = curves(StudyFolder(story.runs / "tiny"))
    assert found == undisturbed_curves
    for curve in found.values():
        assert [record["step"] for record in curve] == list(range(10, 301, 10))
        assert curve[-1]["val_loss"] < curve[4]["val_loss"]


def test_status_tells_the_states(story: Story, process_grid: Path) -> None:
    result = run("status", process_grid, "--runs", story.runs)
    assert result.returncode == 0
    assert result.stdout.count("300/300") == 4
    assert "4 finished" in result.stdout


def test_a_finished_study_trains_nothing(story: Story, process_grid: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in story.runs.glob("tiny/*/*")}
    result = run("run", process_grid, "--runs", story.runs)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "started" not in result.stdout
    assert {path: path.stat().st_mtime_ns for path in story.runs.glob("tiny/*/*")} == before


def test_the_report_is_made_from_the_curves(story: Story, process_grid: Path, tmp_path: Path) -> None:
    result = run("report", process_grid, "--runs", story.runs, "--out", tmp_path / "pages")
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads((tmp_path / "pages" / "summary.json").read_text())
    rows = summary["speedup"]
    assert {row["axis"] for row in rows} == {"steps", "tokens", "flops", "seconds"}
    assert {str(row["target"]) for row in rows} == {"50", "75", "90", "final"}
    assert {row["baseline"] for row in rows} == {"attention=standard,normalization=prenorm"}
    assert len({row["arm"] for row in rows}) == 3
    for name in ("report.html", "report.md", "speedup.csv"):
        assert (tmp_path / "pages" / name).stat().st_size > 0


def test_mlflow_has_it_all(story: Story) -> None:
    assert_is_mirrored(StudyFolder(story.runs / "tiny"))
    found = mirrored(story.runs / "mlflow.db")
    for run_id, content in found.items():
        tags, params = content["tags"], content["params"]
        assert tags["study"] == "tiny"
        assert tags["run_id"] == run_id
        assert tags["seed"] == "0"
        assert tags["arm"].startswith("attention=")
        assert params["model.attention.name"] in tags["arm"]
        assert params["train.steps"] == "300"


@pytest.mark.slow
def test_two_drivers_train_each_run_once(undisturbed_curves: Curves, process_grid: Path, tmp_path: Path) -> None:
    processes = [start("run", process_grid, "--runs", tmp_path, "--workers", "1") for _ in range(2)]
    for process in processes:
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
    assert curves(StudyFolder(tmp_path / "tiny")) == undisturbed_curves
    assert_is_mirrored(StudyFolder(tmp_path / "tiny"))


@pytest.mark.slow
def test_retry_failed_tries_the_failed_runs_alone(process_grid: Path, tmp_path: Path) -> None:
    runs, settings = tmp_path / "runs", ("--set", "train.steps=20", "--set", "matrix.normalization=[prenorm]")
    planned = json.loads(run("plan", process_grid, "--runs", runs, *settings, "--json").stdout)
    obstacle = runs / "tiny" / planned[-1]["run_id"] / "config.json"
    obstacle.mkdir(parents=True)  # a folder where a file must be written
    first = run("run", process_grid, "--runs", runs, *settings)
    assert first.returncode == 1, first.stdout + first.stderr
    assert "1 failed, 1 finished" in first.stdout
    assert "--retry-failed tries only them" in first.stdout
    assert "IsADirectoryError" in run("logs", planned[-1]["run_id"], "--runs", runs).stdout
    obstacle.rmdir()
    shutil.rmtree(runs / "tiny" / planned[0]["run_id"])  # left as it is, not trained again
    again = run("run", process_grid, "--runs", runs, *settings, "--retry-failed")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("started") == 1
    assert "1 finished, 1 queued" in again.stdout
