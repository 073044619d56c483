"""Who may end a study before its time, and who not. Nothing is trained here."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablate.execution import cluster
from ablate.execution.interruption import SIGNALS, Interruption, at_work, deferred
from ablate.tracking.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_first_signal_stops_and_the_second_one_does_not_wait(store: Store) -> None:
    interruption = Interruption(store)

    def stop() -> None:
        interruption.is_set = True

    with pytest.raises(KeyboardInterrupt), interruption.caught(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.is_set
        os.kill(os.getpid(), signal.SIGINT)


def test_a_hangup_that_nohup_ignores_stops_nothing(store: Store) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interruption(store).caught(lambda: pytest.fail("stopped")):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_ctrl_c_is_heard_by_what_a_script_started_in_the_background(store: Store) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interruption = Interruption(store)

    def stop() -> None:
        interruption.is_set = True

    with interruption.caught(stop):
        os.kill(os.getpid(), signal.SIGINT)
    assert interruption.is_set
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_stop_is_heard_from_the_moment_that_a_driver_is_at_work(store: Store) -> None:
    with at_work(store) as interruption:
        assert store.has_driver()
        assert not interruption.is_requested()
        store.request_stop()
        assert interruption.is_requested()
        assert not Interruption(store).is_requested()  # of a driver that came later
    assert not store.has_driver()


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{}"])
def test_a_request_that_can_no_longer_be_read_is_none(store: Store, content: bytes | None) -> None:
    with at_work(store):
        store.request_stop()
    interruption = Interruption(store)
    path = store.path / "stop.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert not interruption.is_requested()


def test_ctrl_c_while_ray_starts_was_lost_or_crashed_the_driver_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def start_ray(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        happened.append("started")

    monkeypatch.setattr(cluster, "init_local", start_ray)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: happened.append("shut down"))
    with pytest.raises(KeyboardInterrupt), cluster.start_cluster(None, {"CPU": 1}, tmp_path / "ray.log"):
        happened.append("at work")
    assert happened == ["started", "shut down"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_ctrl_c_does_not_wait_for_the_start_of_ray() -> None:
    with pytest.raises(KeyboardInterrupt), deferred():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("waited")
