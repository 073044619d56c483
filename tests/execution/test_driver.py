"""The driver on a real cluster, with workers in which something breaks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import faulty
import pytest
from mlflow.tracking import MlflowClient

from ablate.execution.events import Event
from ablate.execution.jobs import find_unfinished, record_study
from ablate.execution.source import RunSource
from ablate.execution.stopping import Patience
from ablate.tracking.mlflow_mirror import MlflowMirror

pytestmark = [
    pytest.mark.timeout(240),  # the first test starts the cluster too
    pytest.mark.usefixtures("ray_cluster"),
    # MLflow and SQLAlchemy deprecate each other's and their own calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def bench(make_bench):
    return make_bench()


@pytest.fixture(scope="module")
def undisturbed(make_bench):
    bench = make_bench()
    assert bench.train().exit_code == 0
    return bench.curves()


def test_a_worker_that_hangs_is_replaced(bench, undisturbed) -> None:
    outcome = bench.train(stuck_s=4.0, worker_class=faulty.SuspendedWorker)
    assert outcome.states == {"finished": 2}
    assert "no sign of life for 4 s" in bench.texts()
    assert bench.curves() == undisturbed


def test_a_run_whose_process_is_killed_again_and_again_gets_a_smaller_micro_batch(bench) -> None:
    outcome = bench.train(worker_class=faulty.DyingWorker)
    assert outcome.states == {"finished": 2}
    assert "2 sequences at once" in bench.texts()
    (status,) = [
        bench.store.run(run.run_id).read_status() for run in bench.plan.runs if run.arm.name != run.arm.baseline
    ]
    assert status.micro_batch_size == 2
    assert "want of memory" in status.notes[-1]


def test_a_run_that_always_dies_fails_alone(bench) -> None:
    outcome = bench.train(worker_class=faulty.HopelessWorker)
    assert outcome.states == {"finished": 1, "failed": 1}
    assert outcome.exit_code == 1
    assert "died 3 times" in bench.texts()


def test_a_broken_variant_fails_alone_and_is_tried_again_alone(bench, undisturbed) -> None:
    outcome = bench.train(worker_class=faulty.BrokenVariantWorker)
    assert outcome.states == {"finished": 1, "failed": 1}
    assert outcome.exit_code == 1
    (failed,) = find_unfinished(bench.plan, bench.store, failed_only=True)
    error = bench.store.run(failed.run_id).read_status().error
    assert "Traceback" in error
    assert "a bug in this variant" in error
    assert bench.train(worker_class=faulty.BrokenVariantWorker).exit_code == 0
    assert bench.curves() == undisturbed


def test_damage_to_what_was_saved_is_found_and_made_good(bench, undisturbed) -> None:
    bench.train()
    first, second = (bench.store.run(run.run_id) for run in bench.plan.runs)
    first.curve.write_bytes(first.curve.read_bytes().replace(b'"step":4', b'"step":5'))
    second.status.write_text('{"state": "fin')
    assert len(find_unfinished(bench.plan, bench.store)) == 2
    assert bench.train().exit_code == 0
    assert bench.curves() == undisturbed
    assert "damaged" in second.read_status().notes[0]


def test_a_stop_from_another_terminal_keeps_checkpoints(bench, undisturbed) -> None:
    def stop(event: Event) -> None:
        if event.kind == "progress":
            bench.store.request_stop()

    outcome = bench.train(observe=stop, worker_class=faulty.SlowWorker)
    assert outcome.exit_code == 130
    assert outcome.states.get("queued")
    assert bench.train().exit_code == 0  # the request was for the driver of then
    assert bench.curves() == undisturbed


def test_a_run_that_is_cut_counts_as_censored_and_can_go_on(bench, undisturbed) -> None:
    class Impatient(Patience):  # type: ignore[misc]
        def judge(self, run, records):
            return "" if run.arm.name == run.arm.baseline or not records else "patience: none"

    outcome = bench.train(stopping=Impatient(1), worker_class=faulty.SlowWorker)
    assert outcome.states == {"finished": 2}
    cut = [run for run in bench.plan.runs if bench.store.run(run.run_id).read_status().is_cut]
    assert [run.arm.name for run in cut] == ["attention=differential"]
    assert "patience: none" in bench.texts()
    assert find_unfinished(bench.plan, bench.store, cut_counts=True) == []
    assert bench.train().exit_code == 0  # without the rule, it goes on from where it was cut
    assert bench.curves() == undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_ends_the_driver_with_what_was_saved_whole(make_bench, undisturbed, small_disk: Path) -> None:
    bench = make_bench(small_disk / "tiny")
    filler = small_disk / "filler"
    fill: Callable[[Event], object] = lambda event: event.kind == "progress" and not filler.exists() and _fill(filler)  # noqa: E731
    outcome = bench.train(observe=fill, worker_class=faulty.SlowWorker)
    assert outcome.exit_code == 1
    assert "No space left on device" in outcome.halted
    filler.unlink()
    assert bench.train().exit_code == 0
    assert bench.curves() == undisturbed


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


def test_a_source_adds_runs_while_others_train(make_bench, undisturbed) -> None:
    bench = make_bench()
    whole = bench.plan
    bench.plan = replace(whole, arms=whole.arms[:1], runs=whole.runs[:1])
    source = OneByOne(bench, whole)
    bench.store.write_study(record_study(bench.plan, "0", ""))
    mirror = MlflowMirror(f"sqlite:///{bench.store.mlflow_database}", bench.store, bench.store.read_study())
    assert bench.train(lanes=2, source=source, mirror=mirror).states == {"finished": 2}
    mirror.close()
    assert source.told == {run.run_id: "finished" for run in whole.runs}
    assert bench.curves() == undisturbed
    assert len(MlflowClient(f"sqlite:///{bench.store.mlflow_database}").search_runs(["1"])) == 2


class OneByOne(RunSource):
    """Gives the runs that a plan has beyond the one that the driver was given."""

    def __init__(self, bench, whole) -> None:
        self.bench, self.whole = bench, whole
        self.told: dict[str, str] = {}

    @property
    def n_left(self) -> int:
        return len(self.whole.runs) - len(self.bench.plan.runs)

    def draw(self):
        new = self.whole.runs[len(self.bench.plan.runs) :]
        self.bench.plan = self.whole
        self.bench.store.write_study(record_study(self.whole, "0", "ablate"))
        return new

    def tell(self, run, state) -> None:
        self.told[run.run_id] = state
