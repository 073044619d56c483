"""Ray clusters on this machine: a node dies, a node does not see the folder, a job server takes a submission."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from processes import PATIENCE_S, Curves, assert_is_mirrored, curves, run, start, wait_until
from ray._private.utils import get_dashboard_dependency_error

from ablate.execution.cluster import PREFIX
from ablate.tracking.curve import read_curve
from ablate.tracking.evaluations import list_evaluations
from ablate.tracking.folders import RunFolder, StudyFolder
from own_files import make_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

N_LINES = 6
RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--disable-usage-stats"]


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    """A folder that the second node does not see, because another file system is mounted over it there."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))


@pytest.fixture
def job_server(tmp_path: Path, token: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:  # noqa: ARG001
    """The address of the job server of a one-node cluster on the loopback interface."""
    if get_dashboard_dependency_error() is not None:
        pytest.skip("the job server needs `ray[default]`")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    address, dashboard = _free_address(), _free_address()
    options = [f"--port={address.rpartition(':')[2]}", f"--dashboard-port={dashboard.rpartition(':')[2]}"]
    command = [*RAY, "--head", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", *options]
    with (tmp_path / "head.log").open("wb") as log:
        head = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            _wait_for_port(dashboard, head)
            yield f"http://{dashboard}"
        finally:
            _kill_group(head)


@pytest.fixture
def cluster(
    tmp_path: Path, hidden: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a cluster of two nodes, and the second node's process group. The parameter has options of the
    head node."""
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a mount namespace of one's own takes root")
    for name in ("RAY_health_check_period_ms", "RAY_health_check_initial_delay_ms"):
        monkeypatch.setenv(name, "1000")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    address = _free_address()
    port = address.rpartition(":")[2]
    head_command = [*RAY, "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false"]
    head_command += getattr(request, "param", [])
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


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


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
    runs = tmp_path / "runs"
    process = start("run", process_grid, "--runs", runs, "--address", address)
    # After only a few lines, no run on either node has ended.
    wait_until(lambda: sum(len(read_curve(path)) for path in runs.glob("tiny/*/curve.jsonl")) >= N_LINES, process)
    _kill_group(node)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert "2 runs at a time" in output
    assert "its worker died" in output
    store = StudyFolder(runs / "tiny")
    assert curves(store) == undisturbed_curves
    assert_is_mirrored(store)


@pytest.mark.parametrize("cluster", [[], ["--num-cpus=0"]], indirect=True, ids=["two nodes", "head without runs"])
def test_a_node_without_the_folder_trains_its_share(
    cluster: tuple[str, subprocess.Popen[bytes]],
    process_grid: Path,
    undisturbed_curves: Curves,
    hidden: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Its data come from the driver, and its curves, weights and evaluations go there."""
    address, _ = cluster
    grid = hidden / "grid.yaml"
    grid.write_text(process_grid.read_text() + "evaluations: [bits_per_byte]\n")
    result = run("run", grid, "--runs", hidden, "--address", address)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 node of the cluster" in result.stdout
    store = StudyFolder(hidden / "tiny")
    assert curves(store) == undisturbed_curves
    entries = store.read_study().runs
    assert not any(store.run(entry.run_id).weights_flaw() for entry in entries)
    assert all(list_evaluations(store.run(entry.run_id).path) for entry in entries)
    workers = {store.run(entry.run_id).read_status().worker for entry in entries}
    assert len(workers) == (1 if "head without runs" in request.node.name else 2)
    assert not list(Path(tempfile.gettempdir()).glob(f"{PREFIX}node-*"))


def test_the_run_of_a_node_without_the_folder_goes_on_elsewhere(
    cluster: tuple[str, subprocess.Popen[bytes]], process_grid: Path, hidden: Path, tmp_path: Path
) -> None:
    address, node = cluster
    declared = yaml.safe_load(process_grid.read_text())
    declared["train"]["steps"] = 1500  # a node looks for new checkpoints once per second
    declared["matrix"]["attention"] = ["standard"]
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump(declared))
    pids = {child.pid for child in psutil.Process(node.pid).children(recursive=True)}
    process = start("run", grid, "--runs", hidden, "--address", address)
    store = StudyFolder(hidden / "tiny")

    def has_sent_a_checkpoint() -> bool:
        pids.update(child.pid for child in psutil.Process(node.pid).children(recursive=True))
        return any(
            RunFolder(path.parent).read_status().worker.rpartition(":")[2] in map(str, pids)
            for path in hidden.glob("tiny/*/checkpoint.pt")
        )

    wait_until(has_sent_a_checkpoint, process)
    _kill_group(node)
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert "its worker died" in output
    assert_is_mirrored(store)
    alone = run("run", grid, "--runs", tmp_path / "alone")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert curves(store) == curves(StudyFolder(tmp_path / "alone" / "tiny"))


def test_runs_start_from_the_weights_of_another_study_on_every_node(
    cluster: tuple[str, subprocess.Popen[bytes]], process_grid: Path, hidden: Path, tmp_path: Path
) -> None:
    """The folder of the new study is shared; that of the other one is not."""
    address, _ = cluster
    declared = yaml.safe_load(process_grid.read_text())
    declared["train"] |= {"steps": 20, "eval_every": 10}
    first = hidden / "first.yaml"
    first.write_text(yaml.safe_dump(declared | {"study": "first"}))
    assert run("run", first, "--runs", hidden / "runs").returncode == 0
    tuned = {"study": "tuned", "start_from": {"study": str(hidden / "runs" / "first"), "match": ["attention"]}}
    tuned["start_from"]["match"] += ["normalization", "seed"]  # type: ignore[index]
    grid = tmp_path / "tuned.yaml"
    grid.write_text(yaml.safe_dump(declared | tuned))
    result = run("run", grid, "--runs", tmp_path / "runs", "--address", address)
    assert result.returncode == 0, result.stdout + result.stderr
    alone = run("run", grid, "--runs", tmp_path / "alone")
    assert alone.returncode == 0, alone.stdout + alone.stderr
    assert curves(StudyFolder(tmp_path / "runs" / "tuned")) == curves(StudyFolder(tmp_path / "alone" / "tuned"))


def test_a_job_server_takes_a_study_and_status_follows_it_from_elsewhere(
    job_server: str,
    process_grid: Path,
    undisturbed_curves: Curves,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = tmp_path / "runs"
    sent = run("submit", process_grid, "--runs", runs, "--address", job_server)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert "submitted 4 runs as job " in sent.stdout
    store = StudyFolder(runs / "tiny")
    deadline = time.monotonic() + PATIENCE_S
    while not (store.has_driver() and store.record.exists()):  # the job starts some time after it was accepted
        assert time.monotonic() < deadline, "the job did not start"
        time.sleep(0.1)
    followed = run("status", "tiny", "--runs", runs, "--watch")
    assert followed.returncode == 0, followed.stderr
    assert "4 finished" in followed.stdout
    assert curves(store) == undisturbed_curves

    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    refused = run("submit", process_grid, "--runs", runs, "--address", job_server)
    assert refused.returncode == 2
    assert "no Ray job server accepts the study" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.timeout(600)
def test_the_users_own_code_reaches_a_node_that_does_not_see_the_grid(
    cluster: tuple[str, subprocess.Popen[bytes]], hidden: Path, tmp_path: Path, corpus_file: Path
) -> None:
    """Workers read it in the study's folder, which every node sees."""
    address, _ = cluster
    windows = [{"name": "my_attention.py:MyAttention", "window": window} for window in (2, 4)]
    grid = make_project(hidden, corpus_file, matrix={"attention": windows})
    process = start("run", grid, "--runs", tmp_path / "runs", "--address", address)
    output, _ = process.communicate(timeout=3 * PATIENCE_S)
    assert process.returncode == 0, output
    assert "2 runs at a time" in output
    store = StudyFolder(tmp_path / "runs" / "mine")
    workers = {store.run(record.run_id).read_status().worker for record in store.read_study().runs}
    assert len(workers) == 2
    (version,) = store.code.iterdir()
    assert (version / "helpers.py").is_file()
