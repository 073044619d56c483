"""`resources: {stack: seeds}`: the seeds of an arm as one batch of models, with records of their own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from ablate.errors import GridError
from ablate.execution.jobs import make_job
from ablate.execution.worker import RunWorker
from ablate.plan import build_plan
from ablate.study import load_study
from ablate.tasks import recorder, stack_trainer
from ablate.tasks.contract import Job, Result
from ablate.tracking.curve import CurveWriter
from ablate.tracking.json_files import read_json
from in_process import ONE_CPU

ROUNDING_32 = 1e-4
"""Relative, after a dozen float32 steps: stacked products add up in another order (6e-8 each), amplified by
training."""

SEEDS = 3

pytestmark = [pytest.mark.timeout(240), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture
def stacked(make_bench):
    return make_bench(resources={"stack": "seeds"}, seeds=SEEDS)


@pytest.fixture(scope="module")
def alone(make_bench):
    bench = make_bench(seeds=SEEDS)
    bench.finish()
    return bench.curves()


def assert_close(found: Mapping[str, Sequence[Mapping[str, Any]]], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, curve in found.items():
        assert [line["step"] for line in curve] == [line["step"] for line in expected[name]]
        for line, other in zip(curve, expected[name], strict=True):
            assert line == pytest.approx(other, rel=ROUNDING_32), name


class DyingWorker(RunWorker):
    """Dies once in the middle of the first stack."""

    def train_all(self, jobs: Sequence[Job]) -> Sequence[Result]:
        assert len(jobs) == SEEDS
        mark = self.store.path / "died"
        if not mark.exists():
            beat = stack_trainer.FolderRecorder.beat

            def die(recorder: Any, step: int) -> None:
                if step == 9:
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                beat(recorder, step)

            stack_trainer.FolderRecorder.beat = die  # type: ignore[method-assign]
        return super().train_all(jobs)


def train_here(bench: Any, count: int | None = None) -> tuple[RunWorker, Sequence[Job], Sequence[Result]]:
    """Train the runs of the first arm in this process."""
    worker = RunWorker(bench.store.path, bench.corpus, ONE_CPU)
    arm = bench.plan.runs[0].arm
    runs = [run for run in bench.plan.runs if run.arm is arm][:count]
    jobs = [make_job(bench.plan, run, ONE_CPU, {}) for run in runs]
    return worker, jobs, worker.train_all(jobs)


def test_stacked_runs_have_the_ids_the_files_and_the_numbers_of_runs_by_themselves(stacked, make_bench, alone) -> None:
    usual = make_bench(seeds=SEEDS)
    assert [run.run_id for run in stacked.plan.runs] == [run.run_id for run in usual.plan.runs]
    outcome = stacked.train()
    assert outcome.states == {"finished": 2 * SEEDS}
    assert_close(stacked.curves(), alone)
    for run in stacked.plan.runs:
        folder = stacked.store.run(run.run_id)
        manifest = read_json(folder.manifest)
        assert (manifest["stacked"], manifest["seed"]) == (SEEDS, run.seed)
        assert folder.weights.exists() and not folder.checkpoint.exists()
        assert folder.read_status().step == 12


@pytest.mark.slow
def test_a_killed_stack_resumes_from_its_checkpoints(stacked, alone) -> None:
    outcome = stacked.train(worker_class=DyingWorker)
    assert outcome.states == {"finished": 2 * SEEDS}
    assert stacked.texts().count("its worker died") == SEEDS
    assert_close(stacked.curves(), alone)


def test_a_finished_stack_does_not_wait_for_checkpoints_that_nothing_needs(stacked, monkeypatch) -> None:
    """The disk is busy with the first checkpoint until all runs have finished."""
    finished, written = threading.Event(), []
    conclude, write = stack_trainer._Stack.conclude, recorder.write_checkpoint

    def watch(*arguments) -> Result:
        finished.set()
        return conclude(*arguments)

    def write_late(path, state) -> None:
        assert finished.wait(30), "training waits for the disk"
        written.append(path)
        write(path, state)

    monkeypatch.setattr(stack_trainer._Stack, "conclude", watch)
    monkeypatch.setattr(recorder, "write_checkpoint", write_late)
    assert train_here(stacked)[2] == ["finished"] * SEEDS
    assert len(written) == 1


def test_runs_that_have_ended_or_train_elsewhere_are_left_out(stacked) -> None:
    worker, jobs, results = train_here(stacked, 2)
    assert results == ["finished"] * 2
    held = stacked.store.run(stacked.plan.runs[-2].run_id)
    held.path.mkdir()
    with CurveWriter(held.curve):
        assert train_here(stacked)[2] == ["finished", "finished", "busy"]
    assert train_here(stacked)[2] == ["finished"] * 3
    assert worker.train(jobs[0]) == "finished"


def test_a_stack_that_does_not_fit_is_split(stacked, monkeypatch) -> None:
    sizes, train = [], stack_trainer.train_stacked

    def run_out(task: Any, settings: Any, members: Any, **options: Any) -> Any:
        sizes.append(len(members))
        if len(members) > 2:
            raise torch.OutOfMemoryError("no room")
        return train(task, settings, members, **options)

    monkeypatch.setattr(stack_trainer, "train_stacked", run_out)
    _, jobs, results = train_here(stacked)
    assert results == ["finished"] * 3
    assert sizes == [3, 2]  # the third trains by itself
    for job in jobs:
        folder = stacked.store.run(job.run_id)
        assert folder.read_status().notes == ("out of memory with 3 stacked runs: at most 2 at once",)
    assert [read_json(stacked.store.run(job.run_id).manifest).get("stacked") for job in jobs] == [None, 2, 2]


def test_an_error_ends_all_runs_of_the_stack(stacked, monkeypatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(stack_trainer, "train_stacked", fail)
    _, jobs, results = train_here(stacked)
    assert results == ["failed"] * 3
    assert all("a bug" in stacked.store.run(job.run_id).read_status().error for job in jobs)
    monkeypatch.undo()
    assert train_here(stacked)[2] == ["finished"] * 3


REFUSED = {
    "dropout": {"model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16, "dropout": 0.1}},
    "attention selective": {"matrix": {"attention": ["standard", "selective"]}},
    "the optimizer muon": {"train": {"steps": 12, "optimizer": "muon"}},
    "train.deterministic": {"train": {"steps": 12, "deterministic": True}},
    "train.attention_backend flex": {"train": {"steps": 12, "attention_backend": "flex"}},
    "2 processes per run": {"resources": {"stack": "seeds", "processes": 2}},
    "the task recall": {
        "task": "recall",
        "data": None,
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 32},
        "train": {"steps": 12},
    },
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_cannot_be_stacked_is_refused_by_the_plan(write_grid, corpus_info, reason) -> None:
    grid = write_grid(**{"resources": {"stack": "seeds"}, "baseline": None, **REFUSED[reason]})
    with pytest.raises(GridError, match=rf"resources\.stack.*with {reason}"):
        build_plan(load_study(grid), corpus_info)


def test_a_program_trains_one_seed_at_a_time(write_grid) -> None:
    program = {"command": "python train.py", "pattern": "x"}
    with pytest.raises(GridError, match=r"resources\.stack: a program trains one seed at a time"):
        load_study(
            write_grid(program=program, resources={"stack": "seeds"}, matrix={"train.lr": [1, 2]}, baseline=None)
        )
