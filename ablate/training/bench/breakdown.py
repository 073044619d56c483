"""Break down the time of a training step by component and by kernel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ablate.training.bench.timed_run import WARM_UP_STEPS
from ablate.training.bench.timing import time_call
from ablate.training.device import now
from ablate.training.loop import Training
from ablate_model import GPT
from ablate_model.blocks import Block

COUNT = 10  # calls per window
KERNEL_STEPS, MAX_KERNELS = 10, 25


def time_components(training: Training, step_ms: float) -> dict[str, float]:
    """Milliseconds per step of each component, forward and backward. Each is timed by itself, compiled if the run is.

    "norms and residual" is a block without its attention and MLP. "rest" is the remainder of the step: embedding, data
    and gaps between kernels, minus the overlap between components. The weights of the model do not change.
    """
    model, config = training.model, training.model.config
    assert isinstance(model, GPT)  # benchmarks measure language models
    shape = (training.micro_batch_size, training.task.tokens_per_row)
    ids_bt = torch.zeros(shape, dtype=torch.long, device=training.device)
    with torch.no_grad():
        h_btd, context = model.embed(ids_bt)
    h_btd = h_btd.detach().requires_grad_()
    blocks = [block for block in model.stack.blocks if isinstance(block, Block)]
    block = next((b for b in blocks if b.attention is not None and b.mlp is not None), blocks[0])
    found: dict[str, float] = {}

    def measure(name: str, count: int, call: Callable[[], Tensor]) -> None:
        found[name] = count * training.n_micro * _time_both_ways(training, call)

    attention, mlp = block.attention, block.mlp
    if attention is not None:
        attend = torch.compile(attention, dynamic=False) if training.train.compile else attention
        measure("attention", config.count_kept("attention"), lambda: attend(h_btd, context))
    if mlp is not None:
        mix = torch.compile(mlp, dynamic=False) if training.train.compile else mlp
        measure("MLP", config.count_kept("mlp"), lambda: mix(h_btd))
    measure("norms and residual", config.count_kept("block"), lambda: block(h_btd, context))
    found["norms and residual"] -= found.get("attention", 0.0) + found.get("MLP", 0.0)
    measure("head and loss", 1, lambda: model.stream_loss(h_btd, ids_bt))
    found["clipping, optimizer and weight normalization"] = _time_update(training)
    return {**found, "rest": step_ms - sum(found.values())}


def _time_both_ways(training: Training, call: Callable[[], Tensor]) -> float:
    """Milliseconds of a forward and backward pass."""

    def both_ways() -> None:
        with training.precision.context(training.device):
            out = call()
        out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]
        for parameter in training.parameters:
            parameter.grad = None

    return 1000 * time_call(both_ways, training.device, COUNT, as_graph=training.device.type == "cuda")


def _time_update(training: Training) -> float:
    gradients = [torch.full_like(parameter, 1e-3) for parameter in training.parameters]
    training.optimizer.set_rate(0.0)

    def update() -> None:
        for parameter, gradient in zip(training.parameters, gradients, strict=True):
            parameter.grad = gradient
        training.update()

    return 1000 * time_call(update, training.device, COUNT, as_graph=training.is_graphed)


class Kernel(NamedTuple):
    """A kernel or copy that ran on the GPU, with its start and end in microseconds."""

    name: str
    start_us: float
    end_us: float


def time_kernels(training: Training, first_step: int, step_ms: float) -> dict[str, float]:
    """Milliseconds per step of the slowest kernels, by name, and what else a step takes (see `explain_step`).

    Empty on a CPU.
    """
    if training.device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile, schedule

    with profile(activities=[ProfilerActivity.CUDA], schedule=schedule(wait=0, warmup=1, active=1)) as profiled:
        for step in range(WARM_UP_STEPS):  # the first calls start the profiler of the device
            training.step(first_step + step)
        now(training.device)
        profiled.step()
        began = now(training.device)
        for step in range(KERNEL_STEPS):
            training.step(first_step + WARM_UP_STEPS + step)
        profiled_ms = 1000 * (now(training.device) - began) / KERNEL_STEPS
    kernels = [
        Kernel(event.name, event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if event.device_type.name == "CUDA" and not event.is_user_annotation
    ]
    return explain_step(kernels, KERNEL_STEPS, profiled_ms, step_ms)


def explain_step(kernels: Iterable[Kernel], n_steps: int, profiled_ms: float, step_ms: float) -> dict[str, float]:
    """Milliseconds per step of kernels, by name, and of everything else, so that the rows add up to `step_ms`.

    The slowest kernels have rows of their own, and the smaller ones share a row. The rows after them are the time
    without any kernel, the time that several kernels share (negative, because each of them counts it), and the
    difference between `step_ms`, a step without the profiler, and `profiled_ms`, the same with it.
    """
    taken_us = defaultdict[str, list[float]](list)
    shared_us, until_us, n_gaps = 0.0, float("-inf"), 0
    for name, start_us, end_us in sorted(kernels, key=lambda kernel: kernel.start_us):
        taken_us[name].append(end_us - start_us)
        shared_us += max(0.0, min(end_us, until_us) - start_us)
        n_gaps += int(start_us > until_us)
        until_us = max(until_us, end_us)
    ms = {name: sum(each) / 1000 / n_steps for name, each in taken_us.items()}
    names = sorted(ms, key=lambda name: -ms[name])
    rows = {name: ms[name] for name in names[:MAX_KERNELS]}
    if smaller := names[MAX_KERNELS:]:
        n_launches = sum(len(taken_us[name]) for name in smaller) / n_steps
        rows[f"{n_launches:.0f} launches of {len(smaller)} smaller kernels"] = sum(ms[name] for name in smaller)
    shared_ms = shared_us / 1000 / n_steps
    rows[f"no kernel, in {n_gaps / n_steps:.0f} gaps"] = profiled_ms - sum(ms.values()) + shared_ms
    if shared_ms:
        rows["kernels that run at the same time"] = -shared_ms
    rows[f"without the profiler instead of {profiled_ms:.2f} ms with it"] = step_ms - profiled_ms
    return rows
