"""One worker in this process, without Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ablate.data import describe, prepare
from ablate.execution.jobs import make_job
from ablate.execution.placement import Placement
from ablate.execution.worker import RunWorker
from ablate.plan import build_plan
from ablate.study import load_study
from ablate.tasks import recorder
from ablate.tasks.contract import Job
from ablate.tracking.curve import CurveWriter, read_curve
from ablate.tracking.folders import RunFolder
from ablate.tracking.json_files import read_json
from ablate.tracking.study_record import Status

TIMES = frozenset({"wall_s", "tokens_per_s"})


@pytest.fixture
def make_worker(tmp_path: Path, write_grid: Callable[..., Path]) -> Callable[..., tuple[RunWorker, Job, RunFolder]]:
    def make(folder: str = "study", **train: Any) -> tuple[RunWorker, Job, RunFolder]:
        settings = [f"train.{key}={value}" for key, value in train.items()]
        study = load_study(write_grid(), settings)
        plan = build_plan(study, describe(study.data, tmp_path))
        placement = Placement(1, 0, 1)
        worker = RunWorker(tmp_path / folder, prepare(study.data, tmp_path, tmp_path / "shards"), placement)
        run = plan.runs[-1]
        return worker, make_job(plan, run, placement, {}), worker.store.run(run.run_id)

    return make


def losses(folder: RunFolder) -> list[dict[str, Any]]:
    """The curve without values that depend on the clock."""
    return [{key: value for key, value in record.items() if key not in TIMES} for record in read_curve(folder.curve)]


def test_a_run_leaves_five_files(make_worker: Callable[..., Any]) -> None:
    worker, job, folder = make_worker()
    assert worker.train(job) == "finished"
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "config.json",
        "curve.jsonl",
        "manifest.json",
        "model.safetensors",
        "status.json",
    ]
    curve = read_curve(folder.curve)
    assert [record["step"] for record in curve] == [2, 4, 6, 8, 10, 12]
    assert [record["step"] for record in curve if "val_loss" in record] == [4, 8, 12]
    status = folder.read_status()
    assert (status.state, status.step, status.n_steps) == ("finished", 12, 12)
    config = read_json(folder.config)
    assert config["model"]["attention"]["name"] == "differential"
    assert config["train"]["weight_decay"] == 0.0
    manifest = read_json(folder.manifest)
    assert manifest["device"]["kind"] in ("cpu", "cuda")
    assert manifest["peak_memory_bytes"] > 0
    assert "blocks" in " ".join(load_file(folder.weights))


def test_a_finished_run_is_not_trained_again(make_worker: Callable[..., Any]) -> None:
    worker, job, folder = make_worker()
    worker.train(job)
    before = folder.curve.stat().st_mtime_ns
    assert worker.train(job) == "finished"
    assert folder.curve.stat().st_mtime_ns == before


def test_a_run_that_somebody_else_trains_is_left_alone(make_worker: Callable[..., Any]) -> None:
    worker, job, folder = make_worker()
    folder.path.mkdir(parents=True)
    with CurveWriter(folder.curve):
        assert worker.train(job) == "busy"
    assert worker.train(job) == "finished"


def test_a_stopped_run_goes_on_with_the_same_numbers(make_worker: Callable[..., Any]) -> None:
    worker, job, folder = make_worker("whole")
    worker.train(job)
    other, job, resumed = make_worker("parts")
    other.stop([job.run_id])
    for _ in range(100):
        result = other.train(job)
        if result != "stopped":
            break
        assert resumed.read_status().state == "queued"
        assert resumed.checkpoint.exists()
    assert result == "finished"
    assert losses(resumed) == losses(folder)
    assert not resumed.checkpoint.exists()
    whole, parts = load_file(folder.weights), load_file(resumed.weights)
    assert all((whole[name] == parts[name]).all() for name in whole)


def test_a_worker_that_gave_up_one_run_trains_the_next(make_worker: Callable[..., Any]) -> None:
    worker, job, _ = make_worker()
    worker.stop(["a run that no look needs"])
    assert worker.train(job) == "finished"


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_checkpoint_that_cannot_be_read_is_reported_and_passed_over(
    make_worker: Callable[..., Any], content: bytes | None
) -> None:
    worker, job, folder = make_worker("whole")
    worker.train(job)
    other, job, broken = make_worker("broken")
    other.stop([job.run_id])
    other.train(job)
    data = broken.checkpoint.read_bytes()
    broken.checkpoint.write_bytes(data[: len(data) // 2] if content is None else content)
    fresh, job, broken = make_worker("broken")
    assert fresh.train(job) == "finished"
    assert "checkpoint" in broken.read_status().notes[0]
    assert losses(broken) == losses(folder)


def test_divergence_is_a_result(make_worker: Callable[..., Any]) -> None:
    worker, job, folder = make_worker(learning_rate="1e30", grad_clip=0)
    assert worker.train(job) == "diverged"
    assert folder.read_status().state == "diverged"
    assert worker.train(job) == "diverged"
    assert None in [record["train_loss"] for record in read_curve(folder.curve)]


def test_an_error_ends_its_run_alone_with_its_traceback(make_worker: Callable[..., Any]) -> None:
    worker, job, folder = make_worker()
    broken = replace(job, config={**job.config, "model": {**job.config["model"], "attention": "missing"}})
    assert worker.train(broken) == "failed"
    status = folder.read_status()
    assert status.state == "failed"
    assert "Traceback" in status.error
    assert "missing" in status.error
    assert worker.train(job) == "finished"
    assert folder.read_status().error == ""


def test_a_heartbeat_is_written_while_training(
    make_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablate.tasks.recorder.HEARTBEAT_S", 0.0)
    worker, job, folder = make_worker()
    seen: list[Status] = []
    write = RunFolder.write_status

    def spy(self: RunFolder, status: Status) -> None:
        seen.append(status)
        write(self, status)

    monkeypatch.setattr(RunFolder, "write_status", spy)
    worker.train(job)
    assert [status.step for status in seen if status.state == "running"][-1] == 12
    assert all(status.heartbeat > 0 for status in seen)
    assert json.loads((folder.path / "status.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (0.25, "cuda")])
def test_a_run_without_a_share_of_a_gpu_trains_on_the_cpu_where_there_are_gpus(
    make_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, gpus: float, device: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    worker, _, _ = make_worker()
    assert RunWorker(worker.store.path, worker.corpus, Placement(1, gpus, 1)).device == device


def test_a_checkpoint_never_outlives_its_curve_where_the_machine_dies(
    make_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keep what was synced to disk, and assume that the rest is lost."""
    worker, job, folder = make_worker()
    on_disk: dict[int, int] = {}
    saved: list[tuple[int, int]] = []
    sync, write = os.fsync, recorder.write_checkpoint

    def watch_sync(descriptor: int) -> None:
        sync(descriptor)
        stat = os.fstat(descriptor)
        on_disk[stat.st_ino] = stat.st_size

    def watch_write(path: Path, state: dict[str, Any]) -> None:
        saved.append((state["curve"][0], on_disk.get(folder.curve.stat().st_ino, 0)))
        write(path, state)

    monkeypatch.setattr(os, "fsync", watch_sync)
    monkeypatch.setattr(recorder, "write_checkpoint", watch_write)
    worker.train(job)
    assert saved
    assert all(0 < n_bytes <= n_on_disk for n_bytes, n_on_disk in saved)  # training may have written more lines


def test_a_worker_compiles_with_its_share_of_the_cores(
    make_worker: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    make_worker()
    assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == "1"
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "3")
    make_worker()
    assert os.environ["TORCHINDUCTOR_COMPILE_THREADS"] == "3"
