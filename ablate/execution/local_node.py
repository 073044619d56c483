"""The Ray node that a driver starts on its own machine."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray
from ray.job_config import JobConfig

from ablate.errors import ResourceError

OBJECT_STORE_BYTES = 100 * 2**20  # Runs exchange no large objects. Ray takes a third of the memory otherwise.

PREFIX = ".ablate-"
ABANDONED_S = 60.0  # a folder this old that no process holds was left by a driver that was killed
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # the longest path of a Unix socket
# Everything between the temporary folder and the end of the longest socket path. The session ends with the process id.
SOCKET_TAIL = f"/{PREFIX}12345678/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"


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
        ray.init(
            address="local",
            num_cpus=int(available["CPU"]),
            num_gpus=int(available.get("GPU", 0)),
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            job_config=_DriverPath(_py_driver_sys_path=sys.path[::-1]),
            **options,
        )


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
        _remove_abandoned(Path(place))
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


def _remove_abandoned(place: Path) -> None:
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
