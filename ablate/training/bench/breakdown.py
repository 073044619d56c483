"""Break down the time of a training step by component and by kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ablate.training.bench.timing import time_call
from ablate.training.device import now
from ablate.training.loop import Training
from ablate_model import GPT
from ablate_model.blocks import Block

COUNT = 10  # calls per window
KERNEL_STEPS, MAX_KERNELS = 3, 25


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


def time_kernels(training: Training, first_step: int) -> dict[str, float]:
    """Milliseconds per step of the slowest kernels, by name; empty on a CPU."""
    if training.device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        for step in range(KERNEL_STEPS):
            training.step(first_step + step)
        now(training.device)
    averages = profiled.key_averages()
    found = {event.key: event.self_device_time_total / 1000 / KERNEL_STEPS for event in averages}
    return dict(sorted(found.items(), key=lambda item: -item[1])[:MAX_KERNELS])
