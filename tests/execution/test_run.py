"""`ablate run` as a process: real workers, real signals. The finished study equals an undisturbed one, bit for bit."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from ablate.tracking.curve import read_curve
from ablate.tracking.store import Store

pytestmark = pytest.mark.timeout(240)

TIMES = frozenset({"wall_s", "tokens_per_s"})
PATIENCE_S = 120.0


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


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "ablate", *map(str, arguments)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(happened: Callable[[], Any], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def is_in_mid_run(runs: Path) -> bool:
    """Whether a run has a checkpoint and went on beyond it."""
    checkpoints = list(runs.glob("tiny/*/checkpoint.pt"))
    return any(len(read_curve(path.with_name("curve.jsonl"))) > 6 for path in checkpoints)


def curves(runs: Path) -> dict[str, list[dict[str, Any]]]:
    store = Store(runs / "tiny")
    return {
        entry.run_id: [
            {key: value for key, value in record.items() if key not in TIMES}
            for record in read_curve(store.run(entry.run_id).curve)
        ]
        for entry in store.read_study().runs
    }


@pytest.fixture(scope="module")
def undisturbed(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("undisturbed")
    result = run("run", grid, "--runs", runs)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[4/4]" in result.stdout
    assert "ray" not in result.stderr.lower()
    return runs


def test_every_run_is_trained_with_the_same_steps(undisturbed: Path) -> None:
    found = curves(undisturbed)
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


def mirrored(runs: Path) -> dict[str, dict[str, Any]]:
    """What the MLflow database holds, by run_id: tags, parameters, points."""
    with sqlite3.connect(runs / "mlflow.db") as connection:
        tags = connection.execute("SELECT run_uuid, key, value FROM tags").fetchall()
        params = connection.execute("SELECT run_uuid, key, value FROM params").fetchall()
        points = connection.execute("SELECT run_uuid, key, step, value FROM metrics").fetchall()
    connection.close()
    by_uuid = {uuid: value for uuid, key, value in tags if key == "run_id"}
    result: dict[str, dict[str, Any]] = {value: {"tags": {}, "params": {}, "points": []} for value in by_uuid.values()}
    for uuid, key, value in tags:
        result[by_uuid[uuid]]["tags"][key] = value
    for uuid, key, value in params:
        result[by_uuid[uuid]]["params"][key] = value
    for uuid, key, step, value in points:
        result[by_uuid[uuid]]["points"].append((key, step, value))
    return result


def assert_is_mirrored(runs: Path) -> None:
    """MLflow has every point of every curve, each once."""
    store = Store(runs / "tiny")
    found = mirrored(runs)
    assert len(found) == 4
    for entry in store.read_study().runs:
        expected = {
            (key, record["step"]): value
            for record in read_curve(store.run(entry.run_id).curve)
            for key, value in record.items()
            if key != "step" and value is not None
        }
        points = found[entry.run_id]["points"]
        assert len(points) == len(expected)
        for key, step, value in points:
            if key not in TIMES:
                assert expected[key, step] == value


def test_mlflow_has_it_all(undisturbed: Path) -> None:
    assert_is_mirrored(undisturbed)
    found = mirrored(undisturbed)
    for run_id, content in found.items():
        tags, params = content["tags"], content["params"]
        assert tags["study"] == "tiny"
        assert tags["run_id"] == run_id
        assert tags["seed"] == "0"
        assert tags["arm"].startswith("attention=")
        assert params["model.attention.name"] in tags["arm"]
        assert params["train.steps"] == "120"


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_killed_process_changes_nothing(undisturbed: Path, grid: Path, tmp_path: Path, victim: str) -> None:
    process = start("run", grid, "--runs", tmp_path)
    wait_until(lambda: is_in_mid_run(tmp_path), process)
    if victim == "driver":
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # At once, while orphans of the dead driver may still be alive.
        result = run("run", grid, "--runs", tmp_path)
        assert result.returncode == 0, result.stdout + result.stderr
    else:
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "RunWorker.train" in " ".join(child.cmdline())
        ]
        assert workers
        os.kill(workers[0].pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
        assert "its worker died" in output
    assert curves(tmp_path) == curves(undisturbed)
    assert_is_mirrored(tmp_path)


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
    assert curves(tmp_path) == curves(undisturbed)


def test_two_drivers_train_each_run_once(undisturbed: Path, grid: Path, tmp_path: Path) -> None:
    processes: Sequence[subprocess.Popen[str]] = [
        start("run", grid, "--runs", tmp_path, "--workers", "1") for _ in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, output
    assert curves(tmp_path) == curves(undisturbed)
    assert_is_mirrored(tmp_path)
