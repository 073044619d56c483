"""The Ray cluster that a driver works on: its own on this machine, on loopback, or one that it joins."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablate.errors import ResourceError
from ablate.execution.interruption import deferred
from ablate.execution.placement import Nodes
from ablate.execution.restart import ClusterLostError

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
STDERR = 2  # the file descriptor


@contextmanager
def start_cluster(address: str | None, available: Mapping[str, float], log: Path) -> Iterator[Nodes]:
    """A Ray cluster for as long as the driver needs it: the one at `address`, or this machine. Gives what its
    nodes have.

    What Ray has to say goes to the file `log`. Raises `ResourceError` where no cluster answers at the address, and
    `ClusterLostError` passes through after the remains of a lost node have been removed.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # Ray listens on every interface unless it believes that this machine can be in no cluster, as it does on macOS.
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = address is not None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    with _stderr_to(log), _replaced(ray._private.worker, "print_to_stdstream", _tell_log):
        try:
            with deferred():
                if address:
                    ray.init(address=address, **quiet)
                else:
                    init_local(available, **quiet)
        except KeyboardInterrupt:
            ray.shutdown()
            raise
        except Exception as error:  # noqa: BLE001 - of a node that does not start, Ray raises a plain Exception
            where = f"no Ray cluster answers at {address}" if address else "Ray did not start on this machine"
            raise ResourceError(f"{where}: {error}; Ray's own words are in {log}") from None
        try:
            yield node_resources()
        except ClusterLostError:
            _local_node().kill_all_processes(check_alive=False, allow_graceful=False)  # a shutdown would wait for it
            raise
        except BaseException:
            ray.shutdown()
            raise
        else:
            ray.shutdown()


def init_local(available: Mapping[str, float], **options: Any) -> None:
    """Start a Ray node on this machine with what a driver needs of it: no autoscaler of a cluster that cannot grow, no
    copyist of logs, and, as where `ray` is installed without its `default` extra, no dashboard and no metrics."""
    node, tools = ray._private.node.Node, ray._private.utils
    with (
        _replaced(node, "start_monitor", _do_nothing),
        _replaced(node, "start_log_monitor", _do_nothing),
        _replaced(node, "start_api_server", _do_nothing),
        _replaced(tools, "get_dashboard_dependency_error", lambda: ImportError("not needed")),
    ):
        ray.init(
            address="local",
            num_cpus=int(available["CPU"]),
            num_gpus=int(available.get("GPU", 0)),
            include_dashboard=False,
            **options,
        )


@contextmanager
def _replaced(owner: Any, name: str, stand_in: Callable[..., Any]) -> Iterator[None]:
    """Ray has no public switch for these. A version that has another name for one starts it as it always did."""
    original = getattr(owner, name, None)
    if original is None:
        yield
        return
    setattr(owner, name, stand_in)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _do_nothing(*_: Any, **__: Any) -> None: ...


def _tell_log(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
    """What Ray prints of a dead worker, whatever `log_to_driver` says: a program may read the standard output."""
    os.write(STDERR, "\n".join([*data["lines"], ""]).encode())


def check_address(address: str) -> None:
    """See that somebody listens at HOST:PORT: Ray itself would try for a minute. Other addresses are Ray's to judge.

    Raises `ResourceError` where nobody does.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        text = getattr(error, "strerror", None) or error
        raise ResourceError(f"--address {address}: no Ray cluster answers there: {text}") from None


def node_resources() -> Nodes:
    """What each node has that is alive now."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def is_lost() -> bool:
    """Whether a vital process of the local node died. Asked of the processes, since Ray calls on a dead node hang."""
    node = _local_node()
    return node is not None and any(name in VITAL for name, _ in node.dead_processes())


def is_headless() -> bool:
    """Whether nobody listens any more where the head of the cluster did. Ray waits a minute for it, and then ends this
    process without a word on the screen."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError:
        return True
    return False


def _local_node() -> Any:
    """Ray's handle of the processes that this one started; no public call tells of them."""
    return ray._private.worker._global_node


def check_shared(folder: Path) -> None:
    """See that every other node of the cluster reads in `folder` what this machine writes there.

    Raises `ResourceError` naming the nodes that do not.
    """
    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] != here]
    if not nodes:
        return
    nonce = folder / f".nonce-{secrets.token_hex(8)}"
    nonce.write_text(nonce.name)
    try:
        read = ray.remote(_reads)
        answers = {
            node["NodeManagerAddress"]: read.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(nonce.resolve(), nonce.name)
            for node in nodes
        }
        done, _ = ray.wait(list(answers.values()), num_returns=len(answers), timeout=PATIENCE_S)
        blind = [name for name, answer in answers.items() if answer not in done or not ray.get(answer)]
    finally:
        nonce.unlink(missing_ok=True)
    if blind:
        raise ResourceError(
            f"{folder.resolve()} is not the same folder on every node of the cluster: {', '.join(blind)} cannot read "
            "there what this machine writes; put --runs on storage that all nodes share"
        )


def _reads(path: Path, content: str) -> bool:
    try:
        return path.read_text() == content
    except OSError:
        return False


@contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
    """Ray's C++ core writes to the file descriptor itself, over whatever is on the screen."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(STDERR)
    with log.open("ab") as file:
        os.dup2(file.fileno(), STDERR)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, STDERR)
        os.close(kept)
