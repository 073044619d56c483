"""The Ray cluster that a driver starts on this machine."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import ray
from processes import PATIENCE_S
from ray.exceptions import WorkerCrashedError

from ablate.errors import ResourceError
from ablate.execution import cluster
from ablate.execution.cluster import start_cluster


def test_what_ray_says_of_a_dead_worker_is_in_its_log_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    log = tmp_path / "ray.log"
    with start_cluster(None, {"CPU": 1}, log):
        with pytest.raises(WorkerCrashedError):
            ray.get(ray.remote(max_retries=0)(die).remote())
        deadline = time.monotonic() + PATIENCE_S / 4
        while not (told := capfd.readouterr().out) and "died" not in log.read_text():
            assert time.monotonic() < deadline, "Ray said nothing"
            time.sleep(0.1)
    assert told == ""


def test_a_node_that_does_not_start_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(cluster, "init_local", time_out)
    with (
        pytest.raises(ResourceError, match="Ray did not start on this machine: The current node timed out"),
        start_cluster(None, {"CPU": 1}, tmp_path / "ray.log"),
    ):
        pytest.fail("it started")
