"""A study with a random fault at a random moment ends like an undisturbed one.

`make test-stress COUNT=200` runs 200 trials, and the number of a trial is its seed. `make test` runs only the first.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
from processes import PATIENCE_S, Curves, assert_is_mirrored, children, curves, run, start, wait_until

from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder

FIRST = int(os.environ.get("ABLATE_STRESS_FIRST", "0"))
COUNT = int(os.environ.get("ABLATE_STRESS_COUNT", "1"))
MAX_RUNS = 4
FAULTS = ("driver", "worker", "node", "suspended worker", "ctrl-c", "second driver", "everything")
NOTICES = {"worker": "its worker died", "node": "the local Ray node died"}
SURE = 0.5  # of the study's lines: a fault before these are written leaves work to do

pytestmark = pytest.mark.timeout(400)


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
    elif fault == "worker":
        # The title names the method only while it runs, so any worker may be between two runs: stop all of them.
        for child in children(process, "RunWorker"):
            child.kill()
    elif workers := children(process, "RunWorker"):
        draw.choice(workers).send_signal(signal.SIGSTOP)


@pytest.mark.parametrize("trial", range(FIRST, FIRST + COUNT))
@pytest.mark.slow
def test_nothing_is_lost(trial: int, process_grid: Path, undisturbed_curves: Curves, tmp_path: Path) -> None:
    draw = random.Random(trial)
    fault = FAULTS[trial % len(FAULTS)]
    store = StudyFolder(tmp_path / "tiny")
    arguments = ("run", process_grid, "--runs", tmp_path, "--workers", "2", "--stuck-after", "15")
    moment = draw.random()
    n_lines = moment * sum(map(len, undisturbed_curves.values()))
    process = start(*arguments)
    # The last runs can end between two polls, so the last moments include those after the end.
    wait_until(lambda: sum(len(read_curve(path)) for path in tmp_path.glob("tiny/*/curve.jsonl")) >= n_lines, process)
    inflict(fault, process, draw, process_grid, tmp_path)
    output, _ = process.communicate(timeout=PATIENCE_S)
    if moment < SURE:
        assert NOTICES.get(fault, "") in output, output
    for _ in range(MAX_RUNS):
        result = run(*arguments)
        output += result.stdout + result.stderr
        if result.returncode == 0:
            break
    assert result.returncode == 0, f"{fault}: {output}"
    assert curves(store) == undisturbed_curves, f"{fault}: {output}"
    assert_is_mirrored(store)
