"""Verbs that read a study or act on it from another terminal. Nothing is trained here."""

from __future__ import annotations

import fcntl
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablate.cli import main
from ablate.tracking.curve import CurveWriter
from ablate.tracking.folders import StudyFolder
from ablate.tracking.study_record import ArmRecord, RunRecord, Status, StudyRecord

Ablate = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> StudyFolder:
    store = StudyFolder(tmp_path / "runs" / "s")
    arms = tuple(ArmRecord(f"a={n}", {"a": n}, {}, "a=1", 10, 60, 4, 100) for n in (1, 2))
    runs = (RunRecord("aa01", "a=1", 0), RunRecord("ab02", "a=2", 0))
    store.write_study(StudyRecord("s", "?", "full", "none", (), {"a": 1}, {"a": (1, 2)}, {}, {}, arms, runs, "0"))
    for run in runs:
        folder = store.run(run.run_id)
        folder.path.mkdir()
        with CurveWriter(folder.curve) as curve:
            curve.append({"step": 2, "train_loss": 1.5, "val_loss": 1.25})
    store.run("aa01").write_status(Status("finished", step=2, n_steps=4, notes=("stopped early, at step 2: asha",)))
    store.run("ab02").write_status(Status("failed", step=2, n_steps=4, error="Traceback\nZeroDivisionError: no"))
    return store


@pytest.fixture
def ablate(store: StudyFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ablate:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ablate", *arguments, "--runs", str(store.path.parent)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


def test_status_marks_runs_with_a_history(ablate: Ablate) -> None:
    code, out, _ = ablate("status", "s")
    assert code == 0
    assert "stopped early *" in out
    assert "1 failed, 1 stopped early" in out
    rows = json.loads(ablate("status", "s", "--json")[1])
    assert rows[0]["notes"] == ["stopped early, at step 2: asha"]


def test_status_watches_until_no_driver_is_left(ablate: Ablate) -> None:
    code, out, _ = ablate("status", "s", "--watch")
    assert code == 0
    assert "1 failed" in out


def test_logs_tell_what_happened(ablate: Ablate) -> None:
    code, out, _ = ablate("logs", "ab")
    assert code == 0
    assert "ZeroDivisionError: no" in out
    assert "step=2" in out
    assert "asha" in ablate("logs", "aa", "-n", "0")[1]


@pytest.mark.parametrize(("prefix", "words"), [("a", "2 runs start with it"), ("zz", "aa01")])
def test_logs_of_no_run_or_several(ablate: Ablate, prefix: str, words: str) -> None:
    code, _, err = ablate("logs", prefix)
    assert code == 2
    assert words in err


@pytest.fixture
def driver(store: StudyFolder) -> Iterator[None]:
    with store.driver_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def test_stop_asks_a_driver(ablate: Ablate, store: StudyFolder, driver: None) -> None:  # noqa: ARG001
    before = store.read_stop_request()
    assert ablate("stop", "s")[0] == 0
    assert store.read_stop_request() != before


def test_stop_without_a_driver_says_so(ablate: Ablate, store: StudyFolder) -> None:
    code, _, err = ablate("stop", "s")
    assert code == 2
    assert "no `ablate run` is training it" in err
    assert store.read_stop_request() == ""


def test_clean_shows_before_it_removes(ablate: Ablate, store: StudyFolder) -> None:
    weights = store.run("aa01").weights
    weights.write_bytes(b"w")
    assert str(weights) in ablate("clean", "s", "--keep", "none", "--dry-run")[1]
    assert weights.exists()
    assert ablate("clean", "s", "--keep", "none")[0] == 0
    assert not weights.exists()
