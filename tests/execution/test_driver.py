"""The driver on a real cluster, with workers that fail."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import faulty
import pytest

from ablate.execution.affinity import NO_AFFINITY
from ablate.execution.early_stopping import Patience, Stopping
from ablate.execution.interruption import TimeLimit
from ablate.execution.jobs import RunSource, find_unfinished, record_study
from ablate.execution.progress import Event
from ablate.tracking.curve import CurveWriter, read_curve

pytestmark = [
    pytest.mark.timeout(240),  # the first test starts the cluster too
    pytest.mark.usefixtures("ray_cluster"),
]


@pytest.fixture
def bench(make_bench):
    return make_bench()


@pytest.fixture(scope="module")
def undisturbed(make_bench):
    bench = make_bench()
    bench.finish()
    return bench.curves()


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(bench, undisturbed, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bench.train_while_one_hangs(monkeypatch).states == {"finished": 2}
    assert "no sign of life for 600 s" in bench.texts()
    assert bench.curves() == undisturbed


@pytest.mark.slow
def test_a_node_that_joins_later_trains_too(make_bench, undisturbed, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, nodes = make_bench(), [{"CPU": 1.0}]
    monkeypatch.setattr("ablate.execution.slots.node_resources", lambda: nodes)
    monkeypatch.setattr("ablate.execution.slots.STAFF_S", 0.0)

    def join(event: Event) -> None:
        if event.kind == "progress" and len(nodes) < 3:
            nodes.extend([{"CPU": 1.0}] * 2)

    outcome = bench.train(grows=True, worker_class=faulty.SlowWorker, observe=join)
    assert outcome.states == {"finished": 2}
    kinds = [event.kind for event in bench.events if event.kind in ("started", "ended")]
    assert kinds == ["started", "started", "ended", "ended"]
    assert bench.texts().count("a node joined; 2 runs at a time") == 1
    assert bench.curves() == undisturbed


@pytest.mark.slow
def test_a_cluster_whose_head_is_gone_is_told_of_once(make_bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench()
    assert bench.train(worker_class=faulty.SlowWorker).states == {"finished": 2}
    assert "does not answer" not in bench.texts()
    bench = make_bench()
    monkeypatch.setattr("ablate.execution.slots.STAFF_S", 0.0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        context = SimpleNamespace(gcs_address=f"127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr("ray.get_runtime_context", lambda: context)
        bench.train()
    assert bench.texts().count("the head of the Ray cluster does not answer") == 1


@pytest.mark.slow
def test_no_lane_is_opened_for_which_there_is_no_run(make_bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench()
    monkeypatch.setattr("ablate.execution.slots.node_resources", lambda: [{"CPU": 8.0}])
    monkeypatch.setattr("ablate.execution.slots.STAFF_S", 0.0)
    assert bench.train(slots=2, grows=True).states == {"finished": 2}
    assert "joined" not in bench.texts()


@pytest.fixture(scope="module")
def troubled(make_bench):
    """A study of four arms that all fail in some way, and its outcome."""
    attentions = ["standard", "differential", "differential_v2", "linear_ensemble"]
    bench = make_bench(matrix={"attention": attentions})
    rule = Onlooker()
    outcome = bench.train(worker_class=faulty.TroubledWorker, stopping=rule)
    folders = {run.arm.name.removeprefix("attention="): bench.store.run(run.run_id) for run in bench.plan.runs}
    return bench, outcome, folders, rule


@pytest.mark.slow
def test_a_run_whose_process_is_killed_again_and_again_gets_a_smaller_micro_batch(troubled) -> None:
    bench, _, folders, _ = troubled
    assert "2 sequences at once" in bench.texts()
    status = folders["differential"].read_status()
    assert (status.state, status.micro_batch_size) == ("finished", 2)
    assert "memory" in status.notes[-1]


@pytest.mark.slow
def test_a_run_is_not_suspected_of_deaths_before_it_began(troubled, undisturbed) -> None:
    bench, _, folders, _ = troubled
    assert sum(event.kind == "retry" and event.run.arm.name == "attention=standard" for event in bench.events) == 2
    assert folders["standard"].read_status().micro_batch_size is None
    assert bench.curves()["attention=standard,0"] == undisturbed["attention=standard,0"]


@pytest.mark.slow
def test_runs_that_always_die_or_raise_fail_alone(troubled) -> None:
    bench, outcome, folders, _ = troubled
    assert outcome.states == {"finished": 2, "failed": 2}
    assert outcome.exit_code == 1
    assert "died 3 times" in bench.texts()
    assert "died 3 times" in folders["linear_ensemble"].read_status().error
    error = folders["differential_v2"].read_status().error
    assert "Traceback" in error
    assert "a bug in this variant" in error
    failed = find_unfinished(bench.plan, bench.store, failed_only=True)
    assert [bench.store.run(run.run_id) for run in failed] == [folders["differential_v2"], folders["linear_ensemble"]]


@pytest.mark.slow
def test_a_rule_of_early_stopping_sees_every_line_once_whatever_becomes_of_its_worker(troubled) -> None:
    bench, _, folders, rule = troubled
    for run in bench.plan.runs:
        written = [record["step"] for record in read_curve(bench.store.run(run.run_id).curve)]
        assert rule.seen.get(run.run_id, []) == written
    assert rule.seen[folders["linear_ensemble"].path.name] == [2, 4, 6]


class Onlooker(Stopping):  # type: ignore[misc]
    """A rule that stops no run and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {}

    def judge(self, run, records):
        self.seen.setdefault(run.run_id, []).extend(record["step"] for record in records)
        return ""


@pytest.mark.slow
def test_a_run_that_another_process_trains_is_asked_for_quietly_until_it_is_free(bench, undisturbed) -> None:
    first, second = bench.plan.runs
    folder = bench.store.run(first.run_id)
    folder.path.mkdir(parents=True)
    lease = CurveWriter(folder.curve)

    def release(event: Event) -> None:
        if event.kind == "ended" and event.run is second:
            threading.Timer(2.0, lease.close).start()

    assert bench.train(observe=release).states == {"finished": 2}
    told = [event.kind for event in bench.events if event.run is first and event.kind != "progress"]
    assert told == ["started", "retry", "ended"]
    assert bench.curves() == undisturbed


@pytest.mark.slow
def test_damage_to_what_was_saved_is_found_and_made_good(bench, undisturbed) -> None:
    bench.finish()
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
    assert "its checkpoint is kept" in bench.texts()
    assert outcome.states == {"interrupted": 1, "queued": 1}  # the run with a checkpoint is interrupted, not queued
    bench.finish()
    assert bench.curves() == undisturbed


@pytest.mark.slow
def test_a_run_that_is_cut_counts_as_censored_and_can_go_on(bench, undisturbed) -> None:
    class Impatient(Patience):  # type: ignore[misc]
        def judge(self, run, records):
            return "" if run.arm.name == run.arm.baseline or not records else "patience: none"

    outcome = bench.train(stopping=Impatient(1), worker_class=faulty.SlowWorker)
    assert outcome.states == {"finished": 1, "stopped early": 1}
    cut = [run for run in bench.plan.runs if bench.store.run(run.run_id).read_status().is_cut]
    assert [run.arm.name for run in cut] == ["attention=differential"]
    assert "patience: none" in bench.texts()
    folder = bench.store.run(cut[0].run_id)
    assert folder.read_status().notes == (f"stopped early, at step {folder.read_status().step}: patience: none",)
    assert find_unfinished(bench.plan, bench.store, keeps_cut=lambda _: True) == []
    bench.finish()  # without the rule, it resumes from where it was stopped
    assert bench.curves() == undisturbed
    assert folder.read_status().notes == ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB, if this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_driver_with_what_was_saved_whole(make_bench, undisturbed, small_disk: Path) -> None:
    bench = make_bench(small_disk / "tiny")
    filler = small_disk / "filler"
    fill: Callable[[Event], object] = lambda event: event.kind == "progress" and not filler.exists() and _fill(filler)  # noqa: E731
    outcome = bench.train(observe=fill, worker_class=faulty.SlowWorker)
    assert outcome.exit_code == 1
    assert "No space left on device" in outcome.halted
    filler.unlink()
    bench.finish()
    assert bench.curves() == undisturbed


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return


@pytest.mark.slow
def test_runs_that_would_not_end_in_time_are_left_and_shorter_ones_begin(bench, undisturbed) -> None:
    slow, quick = bench.plan.runs
    limit = TimeLimit(60)
    limit.learn(slow, took_s=3601)
    limit.learn(quick, took_s=1)
    assert bench.train(limit=limit).states == {"queued": 1, "finished": 1}
    assert limit.is_over
    assert bench.store.run(quick.run_id).read_status().state == "finished"
    bench.finish()
    assert bench.curves() == undisturbed


@pytest.mark.slow
def test_a_run_that_began_before_any_pace_was_known_went_on_beyond_the_minutes(make_bench, undisturbed) -> None:
    bench = make_bench()
    now = [0.0]
    limit = TimeLimit(1, clock=lambda: now[0])

    def pass_time(event: Event) -> None:
        if event.kind == "progress":
            now[0] = 61.0

    outcome = bench.train(limit=limit, observe=pass_time, worker_class=faulty.SlowWorker)
    assert outcome.states == {"interrupted": 1, "queued": 1}
    assert outcome.exit_code == 0
    assert limit.is_over
    bench.finish()
    assert bench.curves() == undisturbed


@pytest.mark.parametrize(
    "name", ["curve.jsonl", *(pytest.param(n, marks=pytest.mark.slow) for n in ("status.json", "config.json", ""))]
)
def test_a_run_folder_that_is_broken_stopped_the_others_or_ended_well(make_bench, name: str) -> None:
    bench = make_bench()
    broken, other = bench.plan.runs
    path = bench.store.run(broken.run_id).path
    if name:
        (path / name).mkdir(parents=True)  # a folder where a file must be
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a file where the folder must be")
    outcome = bench.train(slots=2)
    assert outcome.states == {"failed": 1, "finished": 1}
    assert outcome.exit_code == 1
    assert bench.store.run(other.run_id).read_status().state == "finished"
    (error,) = outcome.lost.values()
    assert "folder" in error
    assert broken.run_id in error


@pytest.mark.slow
def test_a_source_adds_runs_while_others_train(make_bench, undisturbed) -> None:
    bench = make_bench()
    whole = bench.plan
    bench.plan = replace(whole, arms=whole.arms[:1], runs=whole.runs[:1])
    source = OneByOne(bench, whole)
    assert bench.train(slots=2, source=source).states == {"finished": 2}
    assert source.told == {run.run_id: "finished" for run in whole.runs}
    assert [run.run_id for run, _ in bench.mirror.announced] == [run.run_id for run in whole.runs[1:]]
    assert bench.curves() == undisturbed


@pytest.mark.slow
def test_a_run_that_its_source_gives_up_ends_and_is_not_counted(make_bench) -> None:
    bench = make_bench()
    whole = bench.plan
    bench.plan = replace(whole, arms=whole.arms[:1], runs=whole.runs[:1])
    source = Fickle(bench, whole)

    def change_mind(event: Event) -> None:
        source.is_fickle = source.is_fickle or (event.kind == "progress" and event.run == whole.runs[1])

    outcome = bench.train(slots=2, source=source, worker_class=faulty.SlowWorker, observe=change_mind)
    assert outcome.states == {"finished": 1} and source.told == {whole.runs[0].run_id: "finished"}
    assert bench.store.run(whole.runs[1].run_id).read_status().state == "queued"
    assert "no longer needed" in bench.texts()
    assert bench.mirror.withdrawn == [whole.runs[1].run_id]


class OneByOne(RunSource):
    """A source of the runs that the plan has beyond those given to the driver."""

    def __init__(self, bench, whole) -> None:
        self.bench, self.whole = bench, whole
        self.told: dict[str, str] = {}

    @property
    def n_left(self) -> int:
        return len(self.whole.runs) - len(self.bench.plan.runs)

    def draw(self, affinity=NO_AFFINITY):  # noqa: ARG002
        new = self.whole.runs[len(self.bench.plan.runs) :]
        self.bench.plan = self.whole
        self.bench.store.write_study(record_study(self.whole, "0", "ablate"))
        return new

    def tell(self, run, state) -> None:
        self.told[run.run_id] = state


class Fickle(OneByOne):
    """A source that does not need its last run once `is_fickle`."""

    is_fickle = False

    def is_needed(self, run) -> bool:
        return not (self.is_fickle and run == self.whole.runs[1])
