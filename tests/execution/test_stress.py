"""A study that is hit at a random moment, by a random fault, ends like one that nobody touched.

`make test-stress COUNT=200` does it so often; the number of a trial is also its seed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from processes import PATIENCE_S, Curves, assert_is_mirrored, children, curves, run, start, wait_until

from ablate.data import describe, prepare
from ablate.execution.jobs import make_job, record_study
from ablate.execution.placement import Placement
from ablate.execution.worker import RunWorker
from ablate.plan import build_plan
from ablate.study import load_study
from ablate.tracking.store import Store

FIRST = int(os.environ.get("ABLATE_STRESS_FIRST", "0"))
COUNT = int(os.environ.get("ABLATE_STRESS_COUNT", "3"))
LONGEST_WAIT_S = 4.0  # about as long as the study trains
MAX_RUNS = 4
FAULTS = ("driver", "worker", "node", "suspended worker", "ctrl-c", "second driver", "everything")

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Path:
    path = tmp_path_factory.mktemp("grid") / "grid.yaml"
    declared = {
        "study": "tiny",
        "data": {"source": "text", "path": str(corpus_file)},
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16},
        "train": {"steps": 300, "batch_size": 4, "eval_every": 50, "eval_tokens": 128, "log_every": 10}
        | {"checkpoint_every": 25},
        "matrix": {"attention": ["standard", "differential"], "normalization": ["prenorm", "ngpt"]},
        "baseline": {"attention": "standard", "normalization": "prenorm"},
        "resources": {"cpus": 1, "gpus": 0},
    }
    path.write_text(yaml.safe_dump(declared))
    return path


@pytest.fixture(scope="module")
def undisturbed(grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Curves:
    """Trained in this process, without Ray."""
    folder = tmp_path_factory.mktemp("undisturbed")
    study = load_study(grid)
    plan = build_plan(study, describe(study.data, folder))
    store = Store(folder / "tiny")
    store.write_study(record_study(plan, "0", ""))
    worker = RunWorker(store.path, prepare(study.data, folder, folder / "shards"), 1)
    worker.device = "cpu"
    for planned in plan.runs:
        assert worker.train(make_job(plan, planned, Placement(1, 0, 1), {})) == "finished"
    return curves(store)


def inflict(fault: str, process: subprocess.Popen[str], draw: random.Random, grid: Path, runs: Path) -> None:
    if fault == "ctrl-c":
        process.send_signal(signal.SIGINT)
    elif fault == "driver":
        process.kill()
    elif fault == "second driver":
        result = run("run", grid, "--runs", runs, "--workers", "1")
        assert result.returncode == 0, result.stdout + result.stderr
    elif fault == "node":
        for child in children(process, "raylet", "gcs_server"):
            child.kill()
    elif fault == "everything":
        for child in (*children(process, "ray"), *([process] if draw.random() < 0.5 else [])):
            child.kill()
    else:
        workers = children(process, "RunWorker")
        if workers:
            draw.choice(workers).send_signal(signal.SIGSTOP if fault == "suspended worker" else signal.SIGKILL)


@pytest.mark.parametrize("trial", range(FIRST, FIRST + COUNT))
def test_nothing_is_lost(trial: int, grid: Path, undisturbed: Curves, tmp_path: Path) -> None:
    draw = random.Random(trial)
    fault = FAULTS[trial % len(FAULTS)]
    store = Store(tmp_path / "tiny")
    arguments = ("run", grid, "--runs", tmp_path, "--workers", "2", "--stuck-after", "15")
    process = start(*arguments)
    wait_until(lambda: any(tmp_path.glob("tiny/*/curve.jsonl")), process)
    time.sleep(draw.uniform(0, LONGEST_WAIT_S))
    if process.poll() is None:
        inflict(fault, process, draw, grid, tmp_path)
    output, _ = process.communicate(timeout=PATIENCE_S)
    for _ in range(MAX_RUNS):
        result = run(*arguments)
        output += result.stdout + result.stderr
        if result.returncode == 0:
            break
    assert result.returncode == 0, f"{fault}: {output}"
    assert curves(store) == undisturbed, f"{fault}: {output}"
    assert_is_mirrored(store)
