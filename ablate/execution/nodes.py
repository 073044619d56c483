"""The nodes of a joined cluster: whether they run the same code and see the same folder, and the courier for those that
do not see it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablate.errors import ResourceError
from ablate.execution.cluster import local_node
from ablate.execution.courier import Courier, has_content
from ablate.execution.packages import fingerprint

PATIENCE_S = 60.0
COURIER_THREADS = 16  # each serves one node at a time


@contextmanager
def start_courier(study: Path) -> Iterator[Any]:
    """Start the courier on this node of a joined cluster. It is None on a cluster of the driver's own, which is one
    machine.

    Raises `ResourceError` if this node's processes do not see the folder of the study.
    """
    if local_node().is_head():
        yield None
        return
    token = study.resolve() / f".node-{secrets.token_hex(8)}"
    token.write_text(secrets.token_hex(8))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Courier).options(
        num_cpus=0,
        max_concurrency=COURIER_THREADS,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=here,
    )
    courier = actor.remote(token.parent, token.name)
    try:
        if ray.get(courier.token.remote())[1] != token.read_text():
            raise ResourceError(
                f"{study.resolve()} is not the same folder in the processes of Ray on this machine: start Ray where "
                "`ablate run` starts, for example in the same container"
            )
        yield courier
    finally:
        ray.kill(courier)
        token.unlink(missing_ok=True)


def check_nodes(folder: Path) -> list[str]:
    """Check that every node of a joined cluster runs the same version of ablate. Returns the addresses of those that
    do not see the same `folder`.

    Raises `ResourceError` naming the nodes with another version.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if local_node().is_head() or not nodes:  # a node that the driver started has the driver's folder and code
        return []
    nonce = folder / f".nonce-{secrets.token_hex(8)}"
    nonce.write_text(nonce.name)
    try:
        look = ray.remote(_look)
        answers = [
            look.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(nonce.resolve(), nonce.name)
            for node in nodes
        ]
        done, _ = ray.wait(answers, num_returns=len(answers), timeout=PATIENCE_S)
        names = [node["NodeManagerAddress"] for node in nodes]  # several nodes on one machine share an address
        heard = [_hear(answer) if answer in done else (False, "") for answer in answers]
    finally:
        nonce.unlink(missing_ok=True)
    ours = fingerprint()
    others = [name for name, (_, theirs) in zip(names, heard, strict=True) if theirs not in ("", ours)]
    if others:
        raise ResourceError(
            f"another version of ablate is on {', '.join(others)}: install the same one on every node of the cluster, "
            f"in the environment that Ray was started from (this one has the code {ours})"
        )
    return [name for name, (reads, _) in zip(names, heard, strict=True) if not reads]


def _look(path: Path, content: str) -> tuple[bool, str]:
    return has_content(path, content), fingerprint()


def _hear(answer: Any) -> tuple[bool, str]:
    """The answer of a node. It fails if the node has no ablate, or a version without `_look`."""
    try:
        reads, theirs = ray.get(answer)
    except RayError:
        return False, "none"
    return reads, theirs
