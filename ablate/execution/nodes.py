"""Whether the nodes of a joined cluster run the same code and see the same folder."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablate.errors import ResourceError
from ablate.execution.cluster import local_node
from ablate.execution.packages import fingerprint

PATIENCE_S = 60.0


def check_nodes(folder: Path) -> None:
    """Check that every node of a joined cluster sees the same `folder` and runs the same version of ablate.

    Raises `ResourceError` naming the nodes that do not.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if local_node().is_head() or not nodes:  # a node that the driver started has the driver's folder and code
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
