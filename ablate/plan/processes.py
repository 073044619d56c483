"""Whether the processes of a run can share its batch, and whether that makes it faster."""

from __future__ import annotations

from collections.abc import Iterator

from ablate.formatting import count
from ablate.plan.axes import Assignment, arm_name
from ablate.plan.estimate import OVERHEAD_S_PER_LAYER
from ablate.study.declaration import Declaration
from ablate.study.schema import TrainConfig
from ablate_model import ModelConfig

# Of a GPU as of 2024, rounded: products in bfloat16 within a model, and sums of gradients between GPUs of one machine.
GPU_FLOPS_PER_S, LINK_BYTES_PER_S = 4e14, 1e11
GRADIENT_BYTES = 4


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
    else:
        return
    where = ("resources", "processes" if declared.resources.processes else "gpus")
    raise declared.refuse(where, f"{text} (the arm {arm_name(arm)})")


def find_slow_processes(declared: Declaration, train: TrainConfig, model: ModelConfig) -> Iterator[str]:
    """A remark where several GPUs per run are slower than one, or hardly faster, because a step is too short to share.

    It compares the time of a step's products on one GPU with train.cuda_graph and their share on several, whose
    gradients have to be summed and whose kernels are launched one by one without a graph. It depends on shapes only.
    """
    processes = declared.resources.n_processes
    if processes == 1 or not declared.resources.gpus:
        return
    compute_s = train.batch_size * model.context_length * model.flops_per_token() / GPU_FLOPS_PER_S
    launches_s = 0.0 if train.cuda_graph else model.blocks_per_token() * OVERHEAD_S_PER_LAYER
    sums_s = 2 * (processes - 1) / processes * GRADIENT_BYTES * model.num_params() / LINK_BYTES_PER_S
    if max(compute_s / processes, launches_s) + sums_s >= compute_s:
        # With a graph, 10M parameters and 4,096 tokens per step, two H200s were 1.17 times as fast as one.
        gain = "a run gains little" if train.cuda_graph else "one GPU with train.cuda_graph is probably faster"
        yield (
            f"resources.gpus {processes}: {gain}, because a step is too short to share; with `gpus: 1`, "
            f"{count(processes, 'run')} train at a time"
        )
