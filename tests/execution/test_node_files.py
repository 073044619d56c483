"""A worker whose node does not see the study's folder: its files travel through Ray."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from faulty import BlindWorker, DyingBlindWorker

from ablate.execution import node_files
from ablate.execution.cluster import PREFIX
from ablate.execution.courier import Courier
from ablate.execution.node_files import NodeFiles
from ablate.execution.sending import Sending, get
from ablate.files import make_folder, write_atomic
from ablate.tasks.contract import Job
from ablate.tracking.curve import BusyError, CurveWriter, is_held, read_curve
from ablate.tracking.folders import RunFolder, StudyFolder
from ablate.tracking.study_record import Status

StartCourier = Callable[[StudyFolder], Any]
RUN = "0123456789abcdef"


@pytest.fixture
def start_courier(ray_cluster: None) -> Iterator[StartCourier]:  # noqa: ARG001
    actors = []

    def start(store: StudyFolder) -> Any:
        make_folder(store.path)
        token = f".node-{store.path.parent.name}-{os.getpid()}"
        (store.path / token).write_text("token")
        actors.append(ray.remote(Courier).options(num_cpus=0, max_concurrency=4).remote(store.path, token))
        return actors[-1]

    yield start
    for actor in actors:
        ray.kill(actor)


@pytest.fixture
def blind(tmp_path: Path, start_courier: StartCourier, monkeypatch: pytest.MonkeyPatch) -> NodeFiles:
    """The files of a node that does not see the study's folder."""
    monkeypatch.setattr(node_files, "has_content", lambda *_: False)
    files = NodeFiles(tmp_path / "home" / "study", start_courier(StudyFolder(tmp_path / "home" / "study")))
    yield files  # type: ignore[misc]
    files.leave()


def home(files: NodeFiles) -> RunFolder:
    return StudyFolder(files.home).run(RUN)


def here(files: NodeFiles) -> RunFolder:
    return StudyFolder(files.study).run(RUN)


def job(**directions: Any) -> Job:
    return Job(RUN, {}, {}, directions=directions)


@pytest.mark.slow
def test_a_study_is_trained_on_nodes_that_do_not_see_its_folder(
    make_bench: Callable[..., Any], start_courier: StartCourier
) -> None:
    undisturbed, bench = make_bench(), make_bench()
    undisturbed.finish()
    outcome = bench.train(worker_class=BlindWorker, courier=start_courier(bench.store))
    assert outcome.states == {"finished": 2}
    assert bench.curves() == undisturbed.curves()
    for run in bench.plan.runs:
        folder = bench.store.run(run.run_id)
        assert not folder.weights_flaw()
        assert not folder.checkpoint.exists()
        assert folder.weights.read_bytes() == undisturbed.store.run(run.run_id).weights.read_bytes()
        assert not is_held(folder.curve)
    assert not list(Path(tempfile.gettempdir()).glob(f"{PREFIX}node-*{os.getpid()}"))


@pytest.mark.slow
def test_a_node_that_dies_loses_only_what_came_after_the_last_checkpoint_it_sent(
    make_bench: Callable[..., Any], start_courier: StartCourier
) -> None:
    undisturbed, bench = make_bench(), make_bench()
    undisturbed.finish()
    outcome = bench.train(worker_class=DyingBlindWorker, courier=start_courier(bench.store))
    assert outcome.states == {"finished": 2}
    assert bench.curves() == undisturbed.curves()
    assert "resumes from the last checkpoint" in bench.texts()
    assert (bench.store.path / "resumed").read_text() == "8"  # the step of the checkpoint


@pytest.mark.slow
def test_processes_meet_without_a_shared_folder(make_bench: Callable[..., Any], start_courier: StartCourier) -> None:
    bench = make_bench()
    outcome = bench.train(processes=2, worker_class=BlindWorker, courier=start_courier(bench.store))
    assert outcome.states == {"finished": 2}


def test_what_a_run_writes_arrives_in_order(blind: NodeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.execution.sending.LOOK_S", 0.01)
    with blind.opened(job()), CurveWriter(here(blind).curve) as curve:
        curve.append({"step": 1})
        here(blind).write_status(Status("running", step=1))
        _wait(lambda: home(blind).read_status().state == "running" and read_curve(home(blind).curve))
        write_atomic(here(blind).checkpoint, b"x" * 2**24)  # two whole blocks
        _wait(home(blind).checkpoint.exists)
        assert home(blind).checkpoint.stat().st_size == 2**24
        assert is_held(home(blind).curve)
        curve.rewind(0, 0)
        curve.append({"step": 5, "other": True})
        _wait(lambda: [line["step"] for line in read_curve(home(blind).curve)] == [5])
        (here(blind).path / "own").mkdir()
        (here(blind).path / "own" / "file").write_text("of a program")
        here(blind).weights.write_bytes(b"w" * 2**20)
        here(blind).checkpoint.unlink()
        here(blind).write_status(Status("finished", step=5, curve=(curve.n_bytes, curve.crc32)))
        time.sleep(0.2)
        assert home(blind).read_status().state == "running"  # the end is told last
    assert home(blind).read_status().state == "finished"
    assert home(blind).weights.stat().st_size == 2**20
    assert (home(blind).path / "own" / "file").read_text() == "of a program"
    assert not home(blind).checkpoint.exists()
    assert not is_held(home(blind).curve)
    assert not here(blind).path.exists()


@pytest.mark.slow
def test_checkpoints_are_sent_a_tenth_of_the_time(blind: NodeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablate.execution.sending.SHARE", 1e-6)
    with blind.opened(job()):
        sending = blind._sending
        assert isinstance(sending, Sending)
        sending._ended.set()  # this test looks itself
        sending._thread.join()
        for content in ("first", "second"):
            here(blind).checkpoint.write_text(content)
            sending._send()
        assert home(blind).checkpoint.read_text() == "first"
    assert home(blind).checkpoint.read_text() == "second"  # at the end, the run can resume from its last state


def test_a_run_that_was_given_to_another_worker_accepts_nothing_from_the_first(blind: NodeFiles) -> None:
    first, second = "first", "second"
    get(blind.courier.open.remote(RUN, first))
    get(blind.courier.open.remote(RUN, second))
    with pytest.raises(BusyError):
        get(blind.courier.write.remote(RUN, first, "checkpoint.pt", 0, b"old", is_last=True))
    assert get(blind.courier.write_curve.remote(RUN, second, 0, 0, b'{"step": 1}\n'))
    get(blind.courier.close.remote(RUN))
    with pytest.raises(BusyError):
        get(blind.courier.write_curve.remote(RUN, second, 0, 0, b'{"step": 2}\n'))
    assert [line["step"] for line in read_curve(home(blind).curve)] == [1]
    with CurveWriter(home(blind).curve), pytest.raises(BusyError):  # another driver trains it
        get(blind.courier.open.remote(RUN, "third"))


def test_a_full_disk_of_the_driver_ends_the_run_with_its_own_error(blind: NodeFiles) -> None:
    with pytest.raises(IsADirectoryError), blind.opened(job()):
        home(blind).checkpoint.mkdir()
        here(blind).checkpoint.write_text("state")
        _wait(lambda: blind.has_failed)


def test_data_and_start_weights_are_fetched_once(blind: NodeFiles, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(b"1")
    (tmp_path / "weights").write_bytes(b"w" * 10)
    told = {
        "start": {"weights": str(tmp_path / "weights"), "fresh": []},
        "task": {"path": (str(tmp_path / "images"),), "tokenizer": "bytes", "missing": "/no/such/file"},
    }
    found = blind.localize(job(**told)).directions
    weights, images = Path(found["start"]["weights"]), Path(found["task"]["path"][0])
    assert weights.read_bytes() == b"w" * 10
    assert weights != tmp_path / "weights"
    assert (images / "one.png").read_bytes() == b"1"
    assert found["task"]["tokenizer"] == "bytes"
    assert found["task"]["missing"] == "/no/such/file"  # what reads it says so
    before = weights.stat().st_mtime_ns
    assert blind.localize(job(**told)).directions == found
    assert weights.stat().st_mtime_ns == before
    (tmp_path / "weights").write_bytes(b"other")
    assert Path(blind.localize(job(**told)).directions["start"]["weights"]).read_bytes() == b"other"


def test_a_program_runs_in_a_copy_of_its_files(blind: NodeFiles, tmp_path: Path) -> None:
    folder = tmp_path / "grid"
    folder.mkdir()
    (folder / "train.py").write_text("print(1)")
    (folder / "large.bin").write_text("not code")
    told = {"folder": str(folder), "cwd": str(folder), "files": ["train.py"], "diff": ""}
    asked = dataclasses.replace(job(**told), config={"program": {"code": "another version"}})
    found = blind.localize(asked).directions
    assert found["folder"] == found["cwd"] != str(folder)
    assert [path.name for path in Path(found["cwd"]).iterdir()] == ["train.py"]


def test_a_node_that_sees_the_folder_works_in_it(tmp_path: Path, start_courier: StartCourier) -> None:
    store = StudyFolder(tmp_path / "study")
    files = NodeFiles(store.path, start_courier(store))
    assert files.study == store.path
    weights = tmp_path / "elsewhere"
    weights.write_text("w")
    with files.opened(job(start={"weights": str(weights), "fresh": []})) as told:
        assert told.directions["start"]["weights"] == str(weights)


def _wait(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline, "it did not arrive"
        time.sleep(0.01)
