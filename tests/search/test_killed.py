"""`ablate search` as a process that is killed and restarted until it is done."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from pretended import RATE

from ablate.search.optimizer import JOURNAL
from ablate.tracking.curve import read_curve
from ablate.tracking.folders import StudyFolder

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")]

N_TRIALS, PATIENCE_S = 6, 120.0


@pytest.mark.parametrize("kills", [(2,), (0, 1, 3, 5)])
@pytest.mark.slow
def test_sigkill_at_any_moment_loses_no_trial_and_repeats_none(
    write_search: Callable[..., Path], tmp_path: Path, kills: tuple[int, ...]
) -> None:
    steps = {"steps": 60, "batch_size": 4, "eval_every": 20, "eval_tokens": 128, "log_every": 5, "checkpoint_every": 20}
    file = write_search(trials=N_TRIALS, train=steps, confirm={"seeds": 0}, sampler="RandomSampler")
    command = [sys.executable, "-m", "ablate", "search", str(file), "--runs", str(tmp_path / "runs"), "--workers", "2"]
    store, draw = StudyFolder(tmp_path / "runs" / "tiny"), random.Random(5)
    inodes: dict[Path, int] = {}
    for n_ended in kills:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        while count_ended(store) < n_ended:
            assert process.poll() is None
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        inodes |= {path: path.stat().st_ino for path in ended_statuses(store)}
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {path: path.stat().st_ino for path in inodes} == inodes, "a run that had ended was trained again"

    study = optuna.load_study(study_name="tiny", storage=JournalStorage(JournalFileBackend(str(store.path / JOURNAL))))
    trials = [trial for trial in study.trials if trial.user_attrs]
    assert len(trials) == N_TRIALS
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert max(Counter(trial.params[RATE] for trial in trials).values()) == 1
    record = store.read_study()
    assert sorted(path.parent.name for path in ended_statuses(store)) == sorted(run.run_id for run in record.runs)
    assert len(record.runs) == N_TRIALS
    for run in record.runs:
        assert [line["step"] for line in read_curve(store.run(run.run_id).curve)] == list(range(5, 61, 5))
    assert [entry["set"] for entry in yaml.safe_load((store.path / "best.yaml").read_text())["overlay"]] == [
        study.best_params
    ]


def ended_statuses(store: StudyFolder) -> list[Path]:
    folders = [store.run(path.parent.name) for path in store.path.glob("*/status.json")]
    return [folder.status for folder in folders if folder.has_ended(folder.read_status())]


def count_ended(store: StudyFolder) -> int:
    return len(ended_statuses(store))
