"""`ablate run` as a process: real workers, real signals. The finished study equals an undisturbed one, bit for bit."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from processes import PATIENCE_S, assert_is_mirrored, children, curves, mirrored, run, start, wait_until

from ablate.tracking.curve import read_curve
from ablate.tracking.store import Store

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Path:
    """Four runs of a few seconds each: long enough to be hit in the middle."""
    path = tmp_path_factory.mktemp("grid") / "grid.yaml"
    declared = {
        "study": "tiny",
        "question": "Does it survive?",
        "data": {"source": "text", "path": str(corpus_file)},
        "model": {"d_model": 32, "n_layers": 2, "n_heads": 2, "context_length": 32},
        "train": {
            "steps": 120,
            "batch_size": 8,
            "eval_every": 20,
            "eval_tokens": 512,
            "log_every": 5,
            "checkpoint_every": 20,
        },
        "matrix": {"attention": ["standard", "differential"], "normalization": ["prenorm", "ngpt"]},
        "baseline": {"attention": "standard", "normalization": "prenorm"},
    }
    path.write_text(yaml.safe_dump(declared))
    return path


def is_in_mid_run(runs: Path) -> bool:
    """Whether a run has a checkpoint and went on beyond it."""
    checkpoints = list(runs.glob("tiny/*/checkpoint.pt"))
    return any(len(read_curve(path.with_name("curve.jsonl"))) > 6 for path in checkpoints)


@pytest.fixture(scope="module")
def undisturbed(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    result = run("run", grid, "--runs", runs)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[4/4]" in result.stdout
    assert "ray" not in result.stderr.lower()
    return runs


def test_every_run_is_trained_with_the_same_steps(undisturbed: Path) -> None:
    found = curves(Store(undisturbed / "tiny"))
    assert len(found) == 4
    for curve in found.values():
        assert [record["step"] for record in curve] == list(range(5, 121, 5))
        assert curve[-1]["val_loss"] < curve[3]["val_loss"]


def test_status_tells_the_states(undisturbed: Path, grid: Path) -> None:
    result = run("status", grid, "--runs", undisturbed)
    assert result.returncode == 0
    assert result.stdout.count("120/120") == 4
    assert "4 finished" in result.stdout
    rows = json.loads(run("status", "tiny", "--runs", undisturbed, "--json").stdout)
    assert {row["state"] for row in rows} == {"finished"}


def test_a_finished_study_trains_nothing(undisturbed: Path, grid: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.glob("tiny/*/*")}
    result = run("run", grid, "--runs", undisturbed)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "started" not in result.stdout
    assert {path: path.stat().st_mtime_ns for path in undisturbed.glob("tiny/*/*")} == before


def test_the_report_is_made_from_the_curves(undisturbed: Path, grid: Path, tmp_path: Path) -> None:
    result = run("report", grid, "--runs", undisturbed, "--out", tmp_path / "pages")
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads((tmp_path / "pages" / "summary.json").read_text())
    rows = summary["speedup"]
    assert {row["axis"] for row in rows} == {"steps", "tokens", "flops", "seconds"}
    assert {str(row["target"]) for row in rows} == {"50", "75", "90", "final"}
    assert {row["baseline"] for row in rows} == {"attention=standard,normalization=prenorm"}
    assert len({row["arm"] for row in rows}) == 3
    for name in ("report.html", "report.md", "speedup.csv"):
        assert (tmp_path / "pages" / name).stat().st_size > 0


def test_mlflow_has_it_all(undisturbed: Path) -> None:
    assert_is_mirrored(Store(undisturbed / "tiny"))
    found = mirrored(undisturbed / "mlflow.db")
    for run_id, content in found.items():
        tags, params = content["tags"], content["params"]
        assert tags["study"] == "tiny"
        assert tags["run_id"] == run_id
        assert tags["seed"] == "0"
        assert tags["arm"].startswith("attention=")
        assert params["model.attention.name"] in tags["arm"]
        assert params["train.steps"] == "120"


@pytest.mark.parametrize("victim", ["driver", "worker", "node"])
def test_a_killed_process_changes_nothing(undisturbed: Path, grid: Path, tmp_path: Path, victim: str) -> None:
    process = start("run", grid, "--runs", tmp_path)
    wait_until(lambda: is_in_mid_run(tmp_path), process)
    if victim == "driver":
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # At once, while orphans of the dead driver may still be alive.
        result = run("run", grid, "--runs", tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
    elif victim == "node":
        for child in children(process, "raylet", "gcs_server"):
            child.kill()
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
        assert "the local Ray node died; starting another one" in output
    else:
        # The title names the method only while one runs, so either may be between two runs: all are hit.
        wait_until(lambda: children(process, "RunWorker"), process)
        for worker in children(process, "RunWorker"):
            worker.kill()
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
        assert "its worker died" in output
    assert curves(Store(tmp_path / "tiny")) == curves(Store(undisturbed / "tiny"))
    assert_is_mirrored(Store(tmp_path / "tiny"))


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(undisturbed: Path, grid: Path, tmp_path: Path) -> None:
    process = start("run", grid, "--runs", tmp_path)
    wait_until(lambda: is_in_mid_run(tmp_path), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert re.search(r"go on with: .*run .*grid\.yaml", output)
    states = json.loads(run("status", "tiny", "--runs", tmp_path, "--json").stdout)
    assert "running" not in {row["state"] for row in states}
    result = run("run", grid, "--runs", tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert curves(Store(tmp_path / "tiny")) == curves(Store(undisturbed / "tiny"))


def test_two_drivers_train_each_run_once(undisturbed: Path, grid: Path, tmp_path: Path) -> None:
    processes: Sequence[subprocess.Popen[str]] = [
        start("run", grid, "--runs", tmp_path, "--workers", "1") for _ in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
    assert curves(Store(tmp_path / "tiny")) == curves(Store(undisturbed / "tiny"))
    assert_is_mirrored(Store(tmp_path / "tiny"))
