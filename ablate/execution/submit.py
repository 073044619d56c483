"""`ablate submit`: the study as a job of a Ray cluster, so that the laptop it was sent from may be closed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ablate.errors import ResourceError


def entrypoint(grid: Path, runs: Path, options: Sequence[str]) -> str:
    """The command that the cluster's head executes. Jobs start in a folder of their own, so paths are absolute."""
    words = ["python", "-m", "ablate", "run", grid.resolve(), "--runs", runs.resolve(), "--address", "auto", *options]
    return shlex.join(map(str, words))


def submit(address: str, grid: Path, runs: Path, options: Sequence[str]) -> str:
    """Send the study to the job server at `address` (http://HEAD:8265) and give the job's id.

    The secrets of MLflow travel in the environment that the cluster was started with, never in the command. Raises
    `ResourceError` where no job server answers.
    """
    try:
        from ray.job_submission import JobSubmissionClient

        client = JobSubmissionClient(address)
        return str(client.submit_job(entrypoint=entrypoint(grid, runs, options)))
    except (ConnectionError, RuntimeError, ImportError) as error:
        text = str(error).strip().splitlines()[0]
        raise ResourceError(f"no Ray job server takes the study at {address}: {text}") from None
