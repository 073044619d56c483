"""The Ray cluster that a driver works on: its own on this machine, on loopback, or one that it joins."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.job_config import JobConfig

from ablate.errors import ResourceError
from ablate.execution.interruption import sigterm_held
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
CONNECT_S = 5.0
OBJECT_STORE_BYTES = 100 * 2**20  # Runs exchange no large objects. Ray takes a third of the memory otherwise.

PREFIX = ".ablate-"
ABANDONED_S = 60.0  # a folder this old that no process holds was left by a driver that was killed
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # the longest path of a Unix socket
# Everything between the temporary folder and the end of the longest socket path. The session ends with the process id.
SOCKET_TAIL = f"/{PREFIX}12345678/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"

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
                local_node().kill_all_processes(check_alive=False, allow_graceful=False)  # a shutdown would hang
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
    node = local_node()
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


def local_node() -> Any:
    """Ray's handle of the processes that this one started; there is no public call for it."""
    return ray._private.worker._global_node


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


def init_local(available: Mapping[str, float], **options: Any) -> None:
    """Start a Ray node on this machine with only what a driver needs.

    It has no autoscaler, because one machine cannot grow, no log monitor, no dashboard and no metrics.
    """
    node, tools, services = ray._private.node.Node, ray._private.utils, ray._private.services
    with (
        replaced(node, "start_monitor", do_nothing),
        replaced(node, "start_log_monitor", do_nothing),
        replaced(node, "start_api_server", do_nothing),
        replaced(tools, "get_dashboard_dependency_error", lambda: ImportError("not needed")),
        replaced(services, "ConsolePopen", partial(_start_process, services.ConsolePopen)),
    ):
        start = partial(
            ray.init,
            address="local",
            num_cpus=int(available["CPU"]),
            num_gpus=int(available.get("GPU", 0)),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            job_config=_DriverPath(_py_driver_sys_path=sys.path[::-1]),
            **options,
        )
        try:
            start()
        except Exception:  # noqa: BLE001 - Ray raises a plain Exception if a node does not start
            # A node gives up if its agents, which are Python programs, take 15 s to load. On a slow disk or a busy
            # machine they do, but then their files are in memory.
            start()


class _DriverPath(JobConfig):  # type: ignore[misc]
    """Workers look for modules exactly where the driver does.

    Ray puts the working directory first, so workers would import any `ablate` that lies in it.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


def _start_process(popen: Callable[..., Any], *arguments: Any, preexec_fn: Callable[[], object], **options: Any) -> Any:
    """Start one of Ray's processes in a process group of its own.

    `timeout`, a shell and a closing terminal signal a whole group. The driver needs its own group, so that workers
    can save checkpoints before the node ends. Linux ends the node when the driver dies; elsewhere Ray relies
    on the group for that.
    """

    def prepare() -> None:
        preexec_fn()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # the driver blocks it while Ray starts
        if sys.platform.startswith("linux"):
            os.setpgid(0, 0)

    return popen(*arguments, preexec_fn=prepare, **options)


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A short private folder for Ray's sockets and logs, which is removed at the end.

    It is in TMPDIR if possible. Batch systems and macOS set a TMPDIR that is too long for a socket, and Ray cannot
    use a path with spaces or non-ASCII characters. /tmp and /var/tmp are tried then. Raises `ResourceError` if no
    folder can be used.
    """
    places = [os.environ.get("RAY_TMPDIR"), os.environ.get("TMPDIR"), "/tmp", "/var/tmp"]
    for place in filter(None, places):
        if len(f"{place.rstrip('/')}{SOCKET_TAIL}") > SOCKET_BYTES or not place.isascii() or " " in place:
            continue
        remove_abandoned(Path(place))
        try:
            folder = TemporaryDirectory(prefix=PREFIX, dir=Path(place).absolute(), ignore_cleanup_errors=True)
        except OSError:
            continue
        with folder as name, _held(Path(name)):
            yield f"{name}/r"  # Ray opens its folder to everyone, but not the one around it.
        return
    told = f"TMPDIR={os.environ['TMPDIR']}" if os.environ.get("TMPDIR") else "TMPDIR is not set"
    raise ResourceError(
        f"there is no folder for Ray's sockets ({told}): set TMPDIR to a writable folder on a local disk, with at most "
        f"{SOCKET_BYTES - len(SOCKET_TAIL)} ASCII characters and no spaces in its path"
    )


def remove_abandoned(place: Path) -> None:
    for folder in place.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.stat().st_uid == os.getuid() and time.time() - folder.stat().st_mtime > ABANDONED_S:
                with _held(folder):
                    shutil.rmtree(folder)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder until this process ends. Raises `OSError` if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def replaced(owner: Any, name: str, stand_in: Any) -> Iterator[None]:
    """Replace what Ray has no public switch for. Other Ray versions may not have the name; nothing changes then."""
    original = getattr(owner, name, None)
    if original is None:
        yield
        return
    setattr(owner, name, stand_in)
    try:
        yield
    finally:
        setattr(owner, name, original)


def do_nothing(*_: Any, **__: Any) -> None: ...


def cause_of(error: RayError) -> BaseException:
    """The error that a worker raised, if Ray could pass it on; otherwise Ray's own error."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    return cause if isinstance(cause, BaseException) else error
