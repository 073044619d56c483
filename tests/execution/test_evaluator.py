"""Evaluations on a Ray cluster: as a part of `ablate run`, by their own verb, and after processes were killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import ablate
from ablate.tracking.evaluations import list_evaluations, list_snapshots, read_evaluation
from ablate.tracking.folders import StudyFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

OWN = """
import os, signal, time

def norm(model):
    return {"norm": float(sum(p.norm() ** 2 for p in model.parameters())) ** 0.5}

def slow(model):
    time.sleep(2)
    return {"one": 1}

def fails(model):
    raise RuntimeError("no luck")

def dies(model):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def study(write_grid: Callable[..., Path], tmp_path: Path) -> Callable[..., StudyFolder]:
    """A function that runs a grid with these evaluations by the command, and returns its folder and its output."""

    def run(*evaluations: object, code: int = 0, with_grid: bool = True) -> StudyFolder:
        (tmp_path / "my_eval.py").write_text(OWN)
        grid = write_grid(
            matrix={"attention": ["standard", "differential"]},
            baseline={"attention": "standard"},
            seeds=2,
            **({"evaluations": list(evaluations)} if with_grid else {}),
        )
        done = subprocess.run(
            [sys.executable, "-m", "ablate", "run", grid, "--runs", tmp_path / "runs"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        run.output = done.stdout + done.stderr  # type: ignore[attr-defined]
        return StudyFolder(tmp_path / "runs" / "tiny")

    return run


def results(store: StudyFolder) -> list[Path]:
    return [path for run in store.read_study().runs for path in list_evaluations(store.run(run.run_id).path)]


def test_a_grid_evaluates_its_runs_at_the_end_and_along_training(study: Callable[..., StudyFolder]) -> None:
    store = study({"name": "my_eval.py:norm", "every": 4}, "my_eval.py:fails", code=1)
    found = [read_evaluation(path) for path in results(store)]
    assert sorted(r.step for r in found if r.label == "my_eval.py:norm") == [4] * 4 + [8] * 4 + [12] * 4
    assert all("no luck" in r.error for r in found if r.label == "my_eval.py:fails")
    assert "no luck" in study.output  # type: ignore[attr-defined]
    for run in store.read_study().runs:
        folder = store.run(run.run_id)
        assert folder.read_status().state == "finished"
        assert not [*list_snapshots(folder)]
    before = {path: path.stat().st_mtime_ns for path in results(store)}
    study({"name": "my_eval.py:norm", "every": 4}, "my_eval.py:fails", code=1)
    again = {path for path in results(store) if path.stat().st_mtime_ns != before[path]}
    assert {read_evaluation(path).label for path in again} == {"my_eval.py:fails"}  # only what failed is repeated
    assert {*ablate.load(store.path).evaluations.evaluation} == {"my_eval.py:norm"}


def test_a_worker_that_dies_fails_only_its_evaluation(
    study: Callable[..., StudyFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(with_grid=False)
    monkeypatch.chdir(tmp_path)
    command = [
        sys.executable,
        "-m",
        "ablate",
        "evaluate",
        "tiny",
        "--with",
        "my_eval.py:dies,my_eval.py:norm",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "worker process died" in done.stderr
    rows = json.loads(done.stdout)
    assert [row["n"] for row in rows] == [2, 2]
    assert {*(row["evaluation"] for row in rows)} == {"my_eval.py:norm"}


def test_nothing_finished_is_lost_when_everything_is_killed(
    study: Callable[..., StudyFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = study(with_grid=False)
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "ablate", "evaluate", "tiny", "--with", "my_eval.py:norm,my_eval.py:slow"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(results(store)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(3)  # Ray's workers notice that their driver is gone
    kept = {path: path.read_bytes() for path in results(store)}
    assert len(kept) >= 3
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(results(store)) == 8
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_grid_with_a_wrong_evaluation_trains_nothing(study: Callable[..., StudyFolder], tmp_path: Path) -> None:
    study({"name": "needel"}, code=2)
    assert "did you mean 'needle'" in study.output  # type: ignore[attr-defined]
    assert not (tmp_path / "runs" / "tiny" / "study.json").exists()
    assert yaml.safe_load((tmp_path / "grid.yaml").read_text())["evaluations"] == [{"name": "needel"}]


def test_a_model_of_the_task_recall_is_evaluated_with_its_own_tokens(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    grid = write_grid(
        data=None,
        task={"name": "recall", "pairs": [1, 2], "n_validation": 50},
        train={"steps": 8, "batch_size": 4, "eval_every": 4},
        matrix={"attention": ["standard", "differential"]},
        baseline={"attention": "standard"},
        evaluations=[{"name": "recall", "pairs": [1, 2, 16], "every": 4}],
    )
    command = [sys.executable, "-m", "ablate", "run", grid, "--runs", tmp_path / "runs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    frame = ablate.load(tmp_path / "runs" / "tiny").evaluations
    accuracy = frame[frame.metric == "accuracy"]
    assert {(cell["pairs"], n) for cell, n in zip(accuracy.within, accuracy.n, strict=True)} == {
        (1, 1),
        (2, 1),
        (16, 0),
    }
    assert {*accuracy[accuracy.n > 0].chance} == {1 / 64}
