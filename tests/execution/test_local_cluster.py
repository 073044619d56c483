"""The Ray cluster that a driver starts on this machine."""

from __future__ import annotations

import inspect
import os
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import ray
from processes import PATIENCE_S
from ray.exceptions import WorkerCrashedError

from ablate.errors import ResourceError
from ablate.execution import cluster
from ablate.execution.cluster import start_cluster


@pytest.mark.slow
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


def test_uv_run_packed_the_folder_for_every_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would start workers by `uv run` too, each in a copy of the folder and an environment of its own."""
    constants, seen = ray._private.ray_constants, []

    def init(*_: object, **__: object) -> None:
        seen.append(constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV)
        raise RuntimeError("not in this test")

    monkeypatch.setattr(constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)
    monkeypatch.setattr(cluster, "init_local", init)
    with pytest.raises(ResourceError, match="not in this test"), start_cluster(None, {"CPU": 1}, tmp_path / "ray.log"):
        pass
    assert seen == [False] and constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV
    assert "RAY_ENABLE_UV_RUN_RUNTIME_ENV" in inspect.getsource(ray._private.worker)  # where Ray asks for it


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder that is used if TMPDIR is unusable."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    return "/tmp"


@pytest.mark.parametrize("name", ["x" * 60, "none/such", "t m", "tü"])
def test_a_tmpdir_that_is_long_missing_or_not_ascii_kept_ray_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usual: str, name: str
) -> None:
    folder = tmp_path / name
    if "none" not in name:
        folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    with cluster.scratch_folder() as scratch:
        place = Path(scratch).parent
        assert place.parent == Path(usual)
        assert place.stat().st_mode & 0o777 == 0o700
        Path(scratch).mkdir()
    assert not place.exists()


def test_a_tmpdir_is_used_up_to_the_longest_socket_path(monkeypatch: pytest.MonkeyPatch, usual: str) -> None:
    room = cluster.SOCKET_BYTES - len(cluster.SOCKET_TAIL)
    with TemporaryDirectory(prefix="a" * (room - len(usual) - 9), dir=usual) as folder:
        assert len(folder) == room
        monkeypatch.setenv("TMPDIR", folder)
        with cluster.scratch_folder() as scratch:
            assert scratch.startswith(folder)
            tail = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
            assert len(scratch + tail) == cluster.SOCKET_BYTES


def test_without_any_folder_for_sockets_the_message_names_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError

    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr(cluster, "TemporaryDirectory", refuse)
    with (
        pytest.raises(ResourceError, match=r"TMPDIR=.*none\): set TMPDIR to a writable folder on a local disk"),
        cluster.scratch_folder(),
    ):
        pytest.fail("it found one")


def test_the_folder_of_a_driver_that_was_killed_is_removed_and_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "ABANDONED_S", -1.0)
    folders = [tmp_path / f"{cluster.PREFIX}{name}" for name in ("killed", "alive")]
    for folder in folders:
        folder.mkdir()
    with cluster._held(folders[1]):
        cluster.remove_abandoned(tmp_path)
    assert [folder.exists() for folder in folders] == [False, True]


def test_a_node_whose_agents_loaded_slowly_ended_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[object] = []

    def start(**options: object) -> None:
        starts.append(options)
        if len(starts) == 1:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", start)
    cluster.init_local({"CPU": 1})
    assert len(starts) == 2 and starts[0] == starts[1]


def test_a_node_that_does_not_start_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(cluster, "init_local", time_out)
    with (
        pytest.raises(ResourceError, match="Ray did not start on this machine: The current node timed out"),
        start_cluster(None, {"CPU": 1}, tmp_path / "ray.log"),
    ):
        pytest.fail("it started")
