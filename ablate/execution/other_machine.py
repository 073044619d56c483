"""A machine that is elsewhere: plans estimate from the data sheets of its GPUs, because they cannot be measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ablate.errors import AblateError, suggest
from ablate.execution.placement import Placement
from ablate.plan.estimate import Pace

REACHED = 0.7
"""The share of a data sheet's numbers that training can reach. On an H200, a large matrix product reached 701 of 989
TFLOP/s (`ceiling_tflops` in reports/performance/speed-304m.json)."""

CORES_PER_GPU = 16
"""A cautious guess: nodes of clusters have 12 to 32 cores per GPU."""


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
