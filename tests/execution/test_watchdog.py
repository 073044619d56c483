"""Telling a worker that hangs from one whose clock was changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ablate.execution.recovery import Watchdog
from ablate.files import write_atomic


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def status(tmp_path: Path) -> Path:
    path = tmp_path / "status.json"
    write_atomic(path, b"1")
    return path


def test_silence_is_noticed_also_before_a_first_sign(status: Path) -> None:
    clock = Clock()
    watchdog = Watchdog(10.0, clock)
    watchdog.begin(status)
    clock.now = 9.0
    assert not watchdog.is_stuck(status)
    clock.now = 11.0
    assert watchdog.is_stuck(status)
    write_atomic(status, b"2")
    assert watchdog.has_news(status)
    assert not watchdog.is_stuck(status)


def test_a_clock_that_jumps_is_no_silence(status: Path) -> None:
    clock = Clock()
    watchdog = Watchdog(10.0, clock)
    watchdog.begin(status)
    for index, moment in enumerate((0.0, 4e9, 1.0)):  # the worker's clock is set back and forth
        write_atomic(status, str(index).encode())
        os.utime(status, (moment, moment))
        clock.now += 9.0
        assert watchdog.has_news(status)
        assert not watchdog.is_stuck(status)


def test_a_status_that_is_gone_is_no_sign(status: Path) -> None:
    watchdog = Watchdog(10.0, Clock())
    status.unlink()
    watchdog.begin(status)
    assert not watchdog.has_news(status)
    assert not watchdog.is_stuck(status)
