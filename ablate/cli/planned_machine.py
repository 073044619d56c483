"""The machine that `ablate plan` estimates for: this one, or one that is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from ablate.errors import ResourceError
from ablate.execution.placement import Placement, local_resources, measure_pace, parse_machine, place
from ablate.plan import Plan
from ablate.plan.estimate import Pace


@dataclass(frozen=True)
class PlannedMachine:
    """Where the runs are placed, and how fast it is. `pace` is None for a machine of which nothing is known.

    `memory_bytes` is the memory of a GPU that is elsewhere; None stands for this machine's own.
    """

    name: str
    placement: Placement
    pace: Pace | None
    memory_bytes: float | None = None
    notices: tuple[str, ...] = ()


def find_machine(plan: Plan, workers: int | None, on: str | None) -> PlannedMachine:
    """Place the runs on the machine `on`, such as `8xH100`, or on this one.

    If one run needs more than this machine has, the plan is for one run at a time somewhere else, and a notice says so.
    Raises `ResourceError` if the runs do not fit on `on`, or if `workers` do not fit together.
    """
    resources, where = plan.study.resources, plan.study.locate(("resources",))
    if on is not None:
        machine = parse_machine(on)
        placement = place(resources, [machine.resources], workers, len(plan.runs), where)
        return PlannedMachine(str(machine), placement, machine.estimate_pace(placement), machine.gpu.memory_bytes)
    try:
        placement = place(resources, [local_resources()], workers, len(plan.runs), where)
    except ResourceError as error:
        if workers is not None:
            raise
        processes = resources.n_processes
        placement = Placement(resources.cpus or 1, (resources.gpus or 0.0) / processes, 1, processes)
        notice = f"`ablate run` would refuse on this machine: {error}; --on 8xH100 estimates for a machine elsewhere"
        return PlannedMachine("this machine", placement, None, notices=(notice,))
    return PlannedMachine("this machine", placement, measure_pace(placement))
