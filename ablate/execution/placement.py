"""How many runs train at the same time, on which resources, and whether they fit, here or on a machine elsewhere."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ablate.errors import AblateError, ResourceError, suggest
from ablate.formatting import format_count
from ablate.plan import Run
from ablate.plan.estimate import Pace
from ablate.study.declaration import Declaration
from ablate.study.schema import Resources

INDUCTOR_COMPILERS = 32  # the maximum of torch._inductor.config, which takes a second to load

COPIED_BYTES = 2**26  # more than a cache holds

REACHED = 0.7
"""The share of a data sheet's numbers that training can reach. On an H200, a large matrix product reached 701 of 989
TFLOP/s (`ceiling_tflops` in reports/performance/speed-304m.json)."""

CORES_PER_GPU = 16
"""A cautious guess: nodes of clusters have 12 to 32 cores per GPU."""

Nodes = Sequence[Mapping[str, float]]  # the resources of each node of the cluster, with Ray's names


@dataclass(frozen=True)
class Placement:
    """`slots` runs at the same time, each with `processes` workers. A worker has `cpus` cores, and as many threads, and
    the share `gpus` of a GPU."""

    cpus: int
    gpus: float
    slots: int
    processes: int = 1

    @property
    def gpus_of_run(self) -> float:
        return self.gpus * self.processes

    def count_compilers(self, n_cores: int) -> int:
        """How many processes Inductor may use for one worker on a node of `n_cores`: one per core of the worker, or its
        share of those that Inductor uses for a whole GPU."""
        return max(self.cpus, int(min(n_cores, INDUCTOR_COMPILERS) * min(self.gpus, 1)))

    def __str__(self) -> str:
        gpu = f" and {self.gpus:g} GPU" if self.gpus else ""
        slots = "1 run at a time" if self.slots == 1 else f"{self.slots} runs at a time"
        each = f"each by {self.processes} processes" if self.processes > 1 else "each"
        return f"{slots}, {each} on {self.cpus} CPU core{'s' if self.cpus > 1 else ''}{gpu}"


def local_resources() -> dict[str, float]:
    """The resources of this machine, with Ray's names."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cpus = os.cpu_count() or 1
    return {"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}


def place(resources: Resources, nodes: Nodes, workers: int | None, n_runs: int, where: str = "resources") -> Placement:
    """Share the cluster among the runs. `where` is the place in the grid that a refusal names.

    Raises `ResourceError` if one run, or `workers` runs together, need more than there is: Ray would wait forever.
    """
    processes = resources.n_processes
    has_gpu = any(node.get("GPU", 0) >= 1 for node in nodes)
    default = float(processes if has_gpu and resources.cpus is None else 0)
    gpus = (default if resources.gpus is None else resources.gpus) / processes
    cpus = resources.cpus or 1
    each = _describe_run(cpus, gpus, processes)
    slots = count_slots(cpus, gpus, processes, nodes)
    if slots >= 1 and (workers or 0) > slots:
        raise ResourceError(f"--workers {workers}: {_describe(nodes)}, enough for {slots} workers of {each}")
    if slots < 1:
        raise ResourceError(f"{where}: a run that takes {each} cannot be placed: {_describe(nodes)}")
    return Placement(cpus, gpus, max(1, min(workers or slots, n_runs)), processes)


def count_slots(cpus: int, gpus: float, processes: int, nodes: Nodes) -> int:
    """How many runs fit at the same time. A process needs all its resources on one node; those of a run may be on
    several nodes."""
    return sum(_count_processes(cpus, gpus, node) for node in nodes) // processes


def _count_processes(cpus: int, gpus: float, node: Mapping[str, float]) -> int:
    count = int(node.get("CPU", 0)) // cpus
    n_gpus = int(node.get("GPU", 0))
    return min(count, n_gpus // int(gpus) if gpus >= 1 else n_gpus * int(1 / gpus + 1e-9)) if gpus else count


def _describe_run(cpus: int, gpus: float, processes: int) -> str:
    each = f"{cpus} CPU and {gpus:g} GPU"
    return f"{processes} processes of {each} each" if processes > 1 else each


def _describe(nodes: Nodes) -> str:
    """The resources of the nodes, in words."""
    kinds = Counter((int(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in nodes)
    parts = [
        f"{cpus} CPU and {gpus:g} GPU"
        + (f" on each of {count} nodes" if count > 1 else " on one node" if len(kinds) > 1 else "")
        for (cpus, gpus), count in kinds.items()
    ]
    return f"there are {', '.join(parts) or 'no nodes'}"


def measure_pace(placement: Placement) -> Pace:
    """Measure how fast the resources of one run multiply large matrices and copy memory. It takes 0.2 s.

    Plans estimate times from it.
    """
    on_gpu = placement.gpus > 0 and torch.cuda.is_available()
    size, dtype, device = (4096, torch.bfloat16, "cuda") if on_gpu else (512, torch.float32, "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(placement.cpus)
    try:
        a = torch.ones(size, size, dtype=dtype, device=device)
        source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        product_s, copy_s = _fastest(lambda: a @ a), _fastest(lambda: target.copy_(source))
    finally:
        torch.set_num_threads(before)
    share = min(1.0, placement.gpus or 1.0) * placement.processes
    return Pace(share * 2 * size**3 / product_s, share * 2 * COPIED_BYTES / copy_s)


def _fastest(call: Callable[[], Tensor]) -> float:
    """Seconds of the fastest of five calls."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        call().flatten()[0].item()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def check_memory(
    study: Declaration,
    runs: Sequence[Run],
    placement: Placement,
    total_bytes: float | None = None,
    machine: str = "this machine",
) -> None:
    """Raises `ResourceError` if the weights, gradients and optimizer state of a run do not fit into the machine, even
    with the smallest micro-batch. It is this machine unless `total_bytes` is given."""
    if not runs:
        return
    total = _total_bytes(placement.gpus > 0) if total_bytes is None else total_bytes
    arms = {id(run.arm): run.arm for run in runs}
    arm = max(arms.values(), key=lambda arm: arm.setup.least_memory_bytes)
    needed = arm.setup.least_memory_bytes
    if total and needed > total:
        device = "the largest GPU" if placement.gpus else "memory and swap"
        raise ResourceError(
            f"{study.locate(('model',))}: the arm {arm.name} has {format_count(arm.n_params or 0)} parameters: their "
            f"weights, gradients and optimizer state take at least {format_count(needed)}B, "
            f"and {device} of {machine} {'has' if placement.gpus else 'have'} {format_count(total)}B"
        )


def _total_bytes(on_gpu: bool) -> int:
    """All memory of the largest GPU, or of this machine with its swap; 0 if it is unknown."""
    if on_gpu:
        devices = range(torch.cuda.device_count())
        return max((torch.cuda.get_device_properties(device).total_memory for device in devices), default=0)
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with Path("/proc/meminfo").open() as file:
            swap = next((int(line.split()[1]) * 1024 for line in file if line.startswith("SwapTotal:")), 0)
    except (OSError, ValueError):
        return 0  # macOS, which swaps as much as its disk holds
    return total + swap


@dataclass(frozen=True)
class Gpu:
    """The manufacturer's numbers: dense bfloat16 FLOP/s, bytes/s of memory, and bytes of memory."""

    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float


GPUS: Mapping[str, Gpu] = {
    "A10": Gpu(125e12, 0.6e12, 24e9),
    "A100": Gpu(312e12, 2.04e12, 80e9),
    "B200": Gpu(2250e12, 8e12, 180e9),
    "H100": Gpu(989e12, 3.35e12, 80e9),
    "H200": Gpu(989e12, 4.8e12, 141e9),
    "L4": Gpu(121e12, 0.3e12, 24e9),
    "L40S": Gpu(362e12, 0.864e12, 48e9),
    "RTX4090": Gpu(165e12, 1.008e12, 24e9),
}


@dataclass(frozen=True)
class OtherMachine:
    """`count` GPUs of one kind on one node."""

    count: int
    name: str

    @property
    def gpu(self) -> Gpu:
        return GPUS[self.name]

    @property
    def resources(self) -> dict[str, float]:
        """What it has, with Ray's names."""
        return {"CPU": float(self.count * CORES_PER_GPU), "GPU": float(self.count)}

    def estimate_pace(self, placement: Placement) -> Pace:
        """The speed of one run's share of the GPUs. Raises `AblateError` for a run that uses none."""
        if not placement.gpus:
            raise AblateError(f"--on {self}: the grid's runs use no GPU (resources.gpus is 0)")
        share = REACHED * min(1.0, placement.gpus) * placement.processes
        return Pace(share * self.gpu.flops_per_s, share * self.gpu.bytes_per_s)

    def __str__(self) -> str:
        return f"{self.count}x{self.name}"


def parse_machine(text: str) -> OtherMachine:
    """Read `8xH100` or `H100`. Raises `AblateError` for another form or an unknown GPU."""
    found = re.fullmatch(r"(?:([1-9]\d{0,3})x)?([A-Za-z]\w*)", text)
    if not found:
        raise AblateError(f"--on {text}: write it as COUNTxGPU, such as 8xH100")
    name = found[2].upper()
    if name not in GPUS:
        raise AblateError(f"--on {text}: the speed of the GPU {found[2]} is not known{suggest(name, GPUS)}")
    return OtherMachine(int(found[1] or 1), name)
