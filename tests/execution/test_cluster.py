"""Two Ray nodes on this machine: one may die, and a folder that only one of them sees is refused."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import PATIENCE_S, Curves, assert_is_mirrored, curves, run, start, wait_until

from ablate.tracking.curve import read_curve
from ablate.tracking.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--disable-usage-stats"]


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    """A folder that the second node does not see: another file system lies over it there."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    return folder


@pytest.fixture
def cluster(
    tmp_path: Path, hidden: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a cluster of two nodes, and the second node's process group."""
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a mount namespace of one's own takes root")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    for name in ("RAY_health_check_period_ms", "RAY_health_check_initial_delay_ms"):
        monkeypatch.setenv(name, "1000")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    port = address.rpartition(":")[2]
    head_command = [*RAY, "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    overlay = f'mount -t tmpfs tmpfs {hidden} && exec "$@"'
    node_command = [
        "unshare",
        "-m",
        "sh",
        "-c",
        overlay,
        "sh",
        *RAY,
        f"--address={address}",
        "--node-ip-address=127.0.0.1",
    ]
    logs = [(tmp_path / f"{name}.log").open("wb") for name in ("head", "node")]
    head = subprocess.Popen(head_command, stdout=logs[0], stderr=subprocess.STDOUT, start_new_session=True)
    processes = [head]
    try:
        _wait_for_port(address, head)
        node = subprocess.Popen(node_command, stdout=logs[1], stderr=subprocess.STDOUT, start_new_session=True)
        processes.append(node)
        _wait_for_nodes(address, 2)
        yield address, node
    finally:
        for process in processes:
            _kill_group(process)
        for log in logs:
            log.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _wait_for_port(address: str, process: subprocess.Popen[bytes]) -> None:
    host, port = address.split(":")

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    wait_until(answers, process)  # type: ignore[arg-type]


def _wait_for_nodes(address: str, count: int) -> None:
    code = (
        "import logging, ray, sys, time\n"
        f"ray.init(address={address!r}, logging_level=logging.ERROR, log_to_driver=False)\n"
        f"while sum(node['Alive'] for node in ray.nodes()) < {count}: time.sleep(0.2)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_S, capture_output=True)


def test_a_node_that_dies_takes_nothing_with_it(
    cluster: tuple[str, subprocess.Popen[bytes]], process_grid: Path, undisturbed_curves: Curves, tmp_path: Path
) -> None:
    address, node = cluster
    process = start("run", process_grid, "--runs", tmp_path / "runs", "--address", address)
    curves_there = lambda: list((tmp_path / "runs").glob("tiny/*/curve.jsonl"))  # noqa: E731
    wait_until(lambda: len(curves_there()) == 2 and all(len(read_curve(path)) > 6 for path in curves_there()), process)
    _kill_group(node)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert "2 runs at a time" in output
    assert "its worker died" in output
    store = Store(tmp_path / "runs" / "tiny")
    assert curves(store) == undisturbed_curves
    assert_is_mirrored(store)


def test_a_folder_that_one_node_does_not_see_is_refused(
    cluster: tuple[str, subprocess.Popen[bytes]], process_grid: Path, hidden: Path
) -> None:
    address, _ = cluster
    result = run("run", process_grid, "--runs", hidden, "--address", address)
    assert result.returncode == 2
    assert "not the same folder on every node" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(hidden.glob("tiny/*/curve.jsonl"))
