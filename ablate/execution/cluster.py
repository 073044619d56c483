"""The Ray cluster that a driver works on: its own on this machine, on loopback, or one that it joins.

`ablate submit` sends a study to a cluster as a job.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablate.errors import ResourceError
from ablate.execution.interruption import sigterm_held
from ablate.execution.local_node import do_nothing, init_local, replaced, scratch_folder
from ablate.execution.packages import fingerprint
from ablate.execution.placement import Nodes
from ablate.files import make_folder, open_regular

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A node that is gone is noticed after 3 s, not 15: each of these probes may itself take 10 s before it counts.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
VITAL = frozenset({"raylet", "gcs_server"})
PATIENCE_S = 60.0
CONNECT_S = 5.0
NOT_YET = "try again later"  # the answer of a cluster that has only just started
STDERR = 2  # the file descriptor


@contextmanager
def start_cluster(address: str | None, available: Mapping[str, float], log: Path) -> Iterator[Nodes]:
    """Join the Ray cluster at `address`, or start one on this machine. Yields the resources of its nodes.

    Ray's own messages go to the file `log`. Workers run in the environment and folder of the driver, or of the node
    that was joined, also under `uv run`. Raises `ResourceError` if no cluster answers at the address or Ray does not
    start. If the node is lost, its remains are removed, and `ClusterLostError` passes through.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    constants, worker, tools = ray._private.ray_constants, ray._private.worker, ray._private.utils
    # Ray listens on every interface unless it believes that this machine can be in no cluster, as it does on macOS.
    constants.ENABLE_RAY_CLUSTER = address is not None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    with (
        _stderr_to(log),
        replaced(constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", False),  # it would pack the folder, and `uv run` workers
        replaced(worker, "print_to_stdstream", _tell_log),
        replaced(tools, "set_sigterm_handler", do_nothing),  # the driver has one that saves checkpoints
        nullcontext() if address else scratch_folder() as scratch,
    ):
        is_broken = True
        try:
            try:
                with sigterm_held():
                    if address:
                        ray.init(address=address, **quiet)
                    else:
                        init_local(available, _temp_dir=scratch, **quiet)
            except Exception as error:  # noqa: BLE001 - Ray raises a plain Exception if a node does not start
                where = f"no Ray cluster answers at {address}" if address else "Ray did not start on this machine"
                raise ResourceError(f"{where}: {error}; Ray's own log is {log}") from None
            yield node_resources()
            is_broken = is_lost()
        finally:
            if is_lost():
                _local_node().kill_all_processes(check_alive=False, allow_graceful=False)  # a shutdown would hang
            else:
                ray.shutdown()
            if scratch and is_broken:
                _save_logs(Path(scratch), log)


def _save_logs(scratch: Path, log: Path) -> None:
    """Append what the processes of a local node logged before their folder is removed."""
    with log.open("ab") as file:
        for path in sorted(scratch.glob("session_*/logs/*.*")):
            file.write(f"\n{path.name}\n".encode() + path.read_bytes())


def _tell_log(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
    """Write what Ray prints about a dead worker to the log, because a program may read the standard output."""
    os.write(STDERR, "\n".join([*data["lines"], ""]).encode())


def check_address(address: str) -> None:
    """Check that a process listens at HOST:PORT, because Ray would try for a minute.

    Other addresses are left to Ray. For `auto`, Ray uses RAY_ADDRESS if it is set. Raises `ResourceError` if no
    process listens.
    """
    place = f"--address {address}"
    if address == "auto" and os.environ.get("RAY_ADDRESS"):
        address = os.environ["RAY_ADDRESS"]
        place = f"--address auto (RAY_ADDRESS={address})"
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        text = getattr(error, "strerror", None) or error
        raise ResourceError(f"{place}: no Ray cluster answers there: {text}") from None


def node_resources() -> Nodes:
    """The resources of each node that is alive."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def is_lost() -> bool:
    """Whether a vital process of the local node died. It checks the processes, because Ray calls to it would hang."""
    node = _local_node()
    return node is not None and any(name in VITAL for name, _ in node.dead_processes())


def is_headless() -> bool:
    """Whether the head of the cluster no longer listens. Ray waits a minute for it, and then ends this process
    silently."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError:
        return True
    return False


def _local_node() -> Any:
    """Ray's handle of the processes that this one started; there is no public call for it."""
    return ray._private.worker._global_node


def check_nodes(folder: Path) -> None:
    """Check that every node of a joined cluster sees the same `folder` and runs the same version of ablate.

    Raises `ResourceError` naming the nodes that do not.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if _local_node().is_head() or not nodes:  # a node that the driver started has the driver's folder and code
        return
    nonce = folder / f".nonce-{secrets.token_hex(8)}"
    nonce.write_text(nonce.name)
    try:
        look = ray.remote(_look)
        answers = {
            node["NodeManagerAddress"]: look.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(nonce.resolve(), nonce.name)
            for node in nodes
        }
        done, _ = (
            ray.wait(list(answers.values()), num_returns=len(answers), timeout=PATIENCE_S) if answers else ([], [])
        )
        seen = {name: _hear(answer) if answer in done else (False, "") for name, answer in answers.items()}
    finally:
        nonce.unlink(missing_ok=True)
    ours = fingerprint()
    others = [name for name, (_, theirs) in seen.items() if theirs not in ("", ours)]
    if others:
        raise ResourceError(
            f"another version of ablate is on {', '.join(others)}: install the same one on every node of the cluster, "
            f"in the environment that Ray was started from (this one has the code {ours})"
        )
    blind = [name for name, (reads, _) in seen.items() if not reads]
    if blind:
        raise ResourceError(
            f"{folder.resolve()} is not the same folder on every node of the cluster: {', '.join(blind)} cannot read "
            "there what this machine writes; put --runs on storage that all nodes share"
        )


def _look(path: Path, content: str) -> tuple[bool, str]:
    try:
        return path.read_text() == content, fingerprint()
    except OSError:
        return False, fingerprint()


def _hear(answer: Any) -> tuple[bool, str]:
    """The answer of a node. It fails if the node has no ablate, or a version without `_look`."""
    try:
        reads, theirs = ray.get(answer)
    except RayError:
        return False, "none"
    return reads, theirs


@contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
    """Redirect the file descriptor itself, because Ray's C++ core writes to it, over anything on the screen."""
    make_folder(log.parent)
    sys.stderr.flush()
    kept = os.dup(STDERR)
    with open_regular(log, "ab") as file:
        os.dup2(file.fileno(), STDERR)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, STDERR)
        os.close(kept)


def entrypoint(grid: Path, runs: Path, options: Sequence[str]) -> str:
    """The command that the cluster's head executes. A job starts in its own folder, so paths are absolute."""
    words = ["python", "-m", "ablate", "run", grid.resolve(), "--runs", runs.resolve(), "--address", "auto", *options]
    return shlex.join(map(str, words))


def submit(address: str, grid: Path, runs: Path, options: Sequence[str]) -> str:
    """Send the study to the job server at `address` (http://HEAD:8265), and return the job's id.

    MLflow's secrets must be in the environment that the cluster was started with. They are never in the command.
    Raises `ResourceError` if no job server answers.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            from ray.job_submission import JobSubmissionClient

            return str(JobSubmissionClient(address).submit_job(entrypoint=entrypoint(grid, runs, options)))
        except (ConnectionError, RuntimeError, ImportError, ValueError, RayError) as error:
            # ValueError: no address; RayError: a token that is not the cluster's
            text = str(error).strip().splitlines()[0]
            if NOT_YET not in text or time.monotonic() > deadline:
                raise ResourceError(f"no Ray job server accepts the study at {address}: {text}") from None
        time.sleep(1)
