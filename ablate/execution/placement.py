"""How many runs go side by side, and on what."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ablate.errors import ResourceError
from ablate.study.schema import Resources


@dataclass(frozen=True)
class Placement:
    """`lanes` worker processes, each with `cpus` cores, which are also its threads, and `gpus` of a GPU."""

    cpus: int
    gpus: float
    lanes: int

    def __str__(self) -> str:
        gpu = f" and {self.gpus:g} GPU" if self.gpus else ""
        lanes = "1 run at a time" if self.lanes == 1 else f"{self.lanes} runs at a time"
        return f"{lanes}, each on {self.cpus} CPU core{'s' if self.cpus > 1 else ''}{gpu}"


def local_resources() -> dict[str, float]:
    """What this machine has, in Ray's words."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cpus = os.cpu_count() or 1
    return {"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}


def place(resources: Resources, available: Mapping[str, float], workers: int | None, n_runs: int) -> Placement:
    """Share the cluster among the runs.

    Raises `ResourceError` where one run asks for more than there is, or `workers` of them do: Ray would wait for ever.
    """
    has_cpus, has_gpus = int(available.get("CPU", 0)), float(available.get("GPU", 0))
    gpus = resources.gpus if resources.gpus is not None else float(has_gpus >= 1 and resources.cpus is None)
    cpus = resources.cpus or 1
    if gpus > 1 and gpus != int(gpus):
        raise ResourceError(f"resources.gpus: {gpus:g} is no whole number of GPUs and no share of one")
    if gpus > 1:
        raise ResourceError(f"resources.gpus: {gpus:g}: a run trains on one GPU or a share of it")
    lanes = count_lanes(cpus, gpus, available)
    if lanes < 1 or (workers or 0) > lanes:
        wanted = f"{workers} workers, each with " if (workers or 0) > 1 else "a run with "
        enough = f", enough for {lanes} workers" if lanes else ""
        raise ResourceError(
            f"resources: {wanted}{cpus} CPU and {gpus:g} GPU cannot be placed: "
            f"there are {has_cpus} CPU and {has_gpus:g} GPU{enough}"
        )
    return Placement(cpus, gpus, max(1, min(workers or lanes, n_runs)))


def count_lanes(cpus: int, gpus: float, available: Mapping[str, float]) -> int:
    """How many runs fit side by side."""
    lanes = int(available.get("CPU", 0)) // cpus
    return min(lanes, int(available.get("GPU", 0)) * int(1 / gpus + 1e-9)) if gpus else lanes


def measure_flops_per_s(placement: Placement) -> float:
    """The rate of a large matrix product on what one run gets, the yardstick of the plan's estimates. Takes 0.1 s."""
    on_gpu = placement.gpus > 0 and torch.cuda.is_available()
    size = 4096 if on_gpu else 512
    before = torch.get_num_threads()
    torch.set_num_threads(placement.cpus)
    try:
        a = torch.ones(
            size, size, dtype=torch.bfloat16 if on_gpu else torch.float32, device="cuda" if on_gpu else "cpu"
        )
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            (a @ a)[0, 0].item()
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return 2 * size**3 / best * min(1.0, placement.gpus or 1.0)
