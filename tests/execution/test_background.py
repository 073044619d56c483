"""Checkpoints and weights are written while training goes on, and nothing is lost by that."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.data import describe, prepare
from ablate.execution.jobs import make_job
from ablate.execution.worker import RunWorker
from ablate.plan import build_plan
from ablate.study import load_study
from ablate.tasks import recorder
from ablate.tasks.contract import Job
from ablate.tasks.recorder import FolderRecorder
from ablate.tracking.folders import RunFolder
from ablate.training.checkpoint import HostCopy, read_checkpoint, write_checkpoint
from in_process import ONE_CPU

PATIENCE_S = 30.0
HERE = Path(__file__).parent

MakeWorker = Callable[..., tuple[RunWorker, Job, RunFolder]]


@pytest.fixture
def make_worker(tmp_path: Path, write_grid: Callable[..., Path]) -> MakeWorker:
    def make() -> tuple[RunWorker, Job, RunFolder]:
        study = load_study(write_grid())
        plan = build_plan(study, describe(study.data, tmp_path))
        worker = RunWorker(tmp_path / "study", prepare(study.data, tmp_path, tmp_path / "shards"), ONE_CPU)
        return worker, make_job(plan, plan.runs[0], ONE_CPU, {}), worker.store.run(plan.runs[0].run_id)

    return make


def test_training_does_not_wait_for_a_slow_disk_and_holds_one_copy(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each checkpoint is only written once training is three steps past it."""
    steps: list[int] = []
    moved = threading.Condition()
    beat, saved, alive, most = FolderRecorder.beat, [], weakref.WeakSet(), [0]

    def watch(self: FolderRecorder, step: int) -> None:
        beat(self, step)
        with moved:
            steps.append(step)
            moved.notify_all()

    def write_late(path: Path, state: dict[str, Any]) -> None:
        step = state["progress"]["step"]
        with moved:
            assert moved.wait_for(lambda: max(steps) >= step + 3, PATIENCE_S), "training waits for the disk"
        write_checkpoint(path, state)
        saved.append(step)

    class Counted(HostCopy):
        def __init__(self, state: Any) -> None:
            super().__init__(state)
            alive.add(self)
            most[0] = max(most[0], len(alive))

    monkeypatch.setattr(FolderRecorder, "beat", watch)
    monkeypatch.setattr(recorder, "write_checkpoint", write_late)
    monkeypatch.setattr(recorder, "HostCopy", Counted)
    worker, job, _ = make_worker()
    assert worker.train(job) == "finished"
    assert (saved, most) == ([4, 8], [1])


@pytest.mark.parametrize("what", ["write_checkpoint", "write_weights"])
def test_an_error_of_the_thread_ends_the_run_as_its_own(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def fail(path: Path, _: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(recorder, what, fail)
    worker, job, folder = make_worker()
    with pytest.raises(OSError, match="No space left"):
        worker.train(job)
    assert folder.read_status().state == "failed"
    monkeypatch.undo()
    assert worker.train(job) == "finished"


def test_a_copy_keeps_the_values_of_its_moment() -> None:
    weight = torch.arange(6.0).view(2, 3)
    state = {"model": {"weight": weight}, "optimizer": [{"state": {0: {"step": torch.tensor(3.0)}}}], "curve": [1, 2]}
    copy = HostCopy(state)
    weight.zero_()
    kept = copy.ready()
    assert torch.equal(kept["model"]["weight"], torch.arange(6.0).view(2, 3))
    assert kept["optimizer"][0]["state"][0]["step"] == 3 and kept["curve"] == [1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_copy_from_a_gpu_keeps_the_values_of_its_moment(tmp_path: Path) -> None:
    """Steps that are queued after the copy do not reach it, and a second copy does not reach a first that is held."""
    weight = torch.zeros(2048, 2048, device="cuda")
    copies = []
    for value in (1.0, 2.0):
        for _ in range(200):
            weight.mul_(1.0)
        weight.fill_(value)
        copies.append(HostCopy({"weight": weight}))
        weight.fill_(-1.0)
    for value, copy in zip((1.0, 2.0), copies, strict=True):
        assert not copy.ready()["weight"].is_cuda
        write_checkpoint(tmp_path / "c.pt", copy.ready())
        state = read_checkpoint(tmp_path / "c.pt")
        assert state is not None and (state["weight"] == value).all()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("every", [pytest.param(n, marks=pytest.mark.slow) for n in (1, 7)])
def test_a_run_that_dies_at_any_call_to_the_disk_ends_like_an_undisturbed_one(
    tmp_path: Path, write_grid: Callable[..., Path], every: int
) -> None:
    paths = [str(HERE), str(HERE.parent), *filter(None, sys.path)]
    command = [sys.executable, str(HERE / "dying.py"), str(write_grid()), str(tmp_path), "3", str(every)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    deaths = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 0, result.stderr
    assert all(death["same"] for death in deaths), (deaths, result.stderr)
    assert len([death for death in deaths if death["ended"] == 9]) >= 15 // every
