"""Which signals and requests may end a study early. Nothing is trained here."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablate.execution import cluster
from ablate.execution.interruption import SIGNALS, Interruption, at_work
from ablate.tracking.folders import StudyFolder


@pytest.fixture
def store(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "s")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_signal_stops_and_the_second_one_does_not_wait(store: StudyFolder) -> None:
    interruption = Interruption(store)
    with pytest.raises(KeyboardInterrupt), interruption.heard():
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.is_set
        os.kill(os.getpid(), signal.SIGINT)


def test_a_hangup_that_nohup_ignores_stops_nothing(store: StudyFolder) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interruption = Interruption(store)
    with interruption.heard():
        os.kill(os.getpid(), signal.SIGHUP)
    assert not interruption.is_set
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_ctrl_c_is_heard_by_what_a_script_started_in_the_background(store: StudyFolder) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruption = Interruption(store)
    with interruption.heard():
        os.kill(os.getpid(), signal.SIGINT)
    assert interruption.is_set
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_stop_is_heard_from_the_moment_that_a_driver_is_at_work(store: StudyFolder) -> None:
    with at_work(store) as interruption:
        assert store.has_driver()
        assert not interruption.look()
        store.request_stop()
        assert interruption.look()
        assert not Interruption(store).look()  # from a later driver
    assert not store.has_driver()


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}"])
def test_a_request_that_can_no_longer_be_read_is_none(store: StudyFolder, content: bytes | None) -> None:
    with at_work(store):
        store.request_stop()
    interruption = Interruption(store)
    path = store.path / "stop.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert not interruption.look()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", ["start", "end"])
def test_a_signal_while_ray_starts_or_ends_was_lost_or_crashed_the_driver(
    store: StudyFolder, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, moment: str
) -> None:
    happened: list[str] = []

    def send() -> None:  # to this thread, because another one, as a test with Ray leaves behind, does not hold signals
        signal.pthread_kill(threading.get_ident(), number)

    def start_ray(*_: object, **__: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's core installs a handler that ends the process
        if moment == "start":
            send()
        happened.append("started")

    def end_ray() -> None:
        if moment == "end":
            send()
        happened.append("ended")

    monkeypatch.setattr(cluster, "init_local", start_ray)
    monkeypatch.setattr(cluster, "node_resources", list)
    monkeypatch.setattr(cluster.ray, "shutdown", end_ray)
    with at_work(store) as interruption:
        with cluster.start_cluster(None, {"CPU": 1}, store.ray_log):
            assert interruption.is_set == (moment == "start")
        assert interruption.is_set
    assert happened == ["started", "ended"]


def test_the_second_ctrl_c_does_not_wait_for_the_start_of_ray(
    store: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_ray(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("waited")

    monkeypatch.setattr(cluster, "init_local", start_ray)
    with (
        pytest.raises(KeyboardInterrupt),
        at_work(store),
        cluster.start_cluster(None, {"CPU": 1}, store.ray_log),
    ):
        pytest.fail("at work")


def test_a_signal_to_every_process_of_a_job_was_taken_for_the_death_of_the_node(store: StudyFolder) -> None:
    interruption = Interruption(store)
    with interruption.heard():
        assert not interruption.arrives_within(0)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()  # the node died first
        assert interruption.arrives_within(10)
