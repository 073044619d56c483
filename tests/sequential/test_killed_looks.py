"""`ablate run` with `until: decided`, as a process that is killed and restarted until it is done."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablate.tracking.folders import StudyFolder

pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 240.0
RATES = [0.01, 0.0001, 0.0101]


def verdicts(store: StudyFolder) -> list[tuple[int, dict[str, str]]]:
    return [(look["seeds"], {row["arm"]: row["verdict"] for row in look["arms"]}) for look in store.read_study().looks]


def count_ended(store: StudyFolder) -> int:
    folders = [store.run(path.parent.name) for path in store.path.glob("*/status.json")]
    return sum(folder.has_ended(folder.read_status()) for folder in folders)


@pytest.mark.slow
def test_sigkill_at_any_moment_changes_no_look(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    steps: dict[str, Any] = {"steps": 60, "batch_size": 4, "eval_every": 20, "eval_tokens": 128, "log_every": 5}
    grid = write_grid(
        train={**steps, "checkpoint_every": 10},
        matrix={"train.learning_rate": RATES},
        baseline={"train.learning_rate": RATES[0]},
        seeds={"at_least": 3, "at_most": 5, "until": "decided"},
        resources={"cpus": 1, "gpus": 0},
    )

    def start(runs: str, workers: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ablate", "run", str(grid), "--runs", str(tmp_path / runs)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*command, "--workers", str(workers)], **quiet)

    whole, store, draw = (
        StudyFolder(tmp_path / "whole" / "tiny"),
        StudyFolder(tmp_path / "parts" / "tiny"),
        random.Random(2),
    )
    assert start("whole", 1).wait(PATIENCE_S) == 0
    for n_ended in (4, 9, 10, 12):
        process = start("parts", 2)
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and count_ended(store) < n_ended:
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert start("parts", 2).wait(PATIENCE_S) == 0
    looks = verdicts(whole)
    assert looks[0] == (
        3,
        {f"train.learning_rate={rate}": looks[0][1][f"train.learning_rate={rate}"] for rate in RATES[1:]},
    )
    assert verdicts(store) == looks and looks[0][1][f"train.learning_rate={RATES[1]}"] == "worse"
    needed = {run.run_id for run in whole.read_study().runs}
    assert needed <= {run.run_id for run in store.read_study().runs}
    assert all(store.run(run_id).read_status().state == "finished" for run_id in needed)
