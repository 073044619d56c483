"""`ablate submit`: the study as a job of a Ray cluster, so that the laptop it was sent from may be closed."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from ray.exceptions import RayError

from ablate.errors import ResourceError

PATIENCE_S = 60.0
NOT_YET = "try again later"  # what a cluster says that has only just started


def entrypoint(grid: Path, runs: Path, options: Sequence[str]) -> str:
    """The command that the cluster's head executes. Jobs start in a folder of their own, so paths are absolute."""
    words = ["python", "-m", "ablate", "run", grid.resolve(), "--runs", runs.resolve(), "--address", "auto", *options]
    return shlex.join(map(str, words))


def submit(address: str, grid: Path, runs: Path, options: Sequence[str]) -> str:
    """Send the study to the job server at `address` (http://HEAD:8265) and give the job's id.

    The secrets of MLflow travel in the environment that the cluster was started with, never in the command. Raises
    `ResourceError` where no job server answers.
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
                raise ResourceError(f"no Ray job server takes the study at {address}: {text}") from None
        time.sleep(1)
