"""Whether the processes of a run can share its batch."""

from __future__ import annotations

from ablate.plan.axes import Assignment, arm_name
from ablate.study.declaration import Declaration
from ablate.study.schema import TrainConfig


def check_processes(declared: Declaration, train: TrainConfig, arm: Assignment) -> None:
    """Raises `GridError` where the processes of a run cannot share its batch evenly."""
    processes = declared.resources.n_processes
    if processes == 1 and (declared.resources.gpus or 0) <= 1:
        return
    share, rest = divmod(train.batch_size, processes)
    at_once = min(train.sequences_at_once, share)
    if processes == 1:
        text = "one process trains on one GPU"
    elif rest:
        text = f"{processes} processes cannot share a batch of {train.batch_size} sequences evenly"
    elif share % at_once:
        text = f"each of {processes} processes has {share} sequences per batch, not divisible by {at_once} at once"
    elif train.cuda_graph:
        text = "train.cuda_graph needs runs of one process"
    else:
        return
    where = ("resources", "processes" if declared.resources.processes else "gpus")
    raise declared.refuse(where, f"{text} (the arm {arm_name(arm)})")
