"""CUDA graphs: kernels that are recorded once and launched together."""

from __future__ import annotations

from collections.abc import Callable

import torch


def capture_graph(call: Callable[[], object]) -> Callable[[], None]:
    """Record the kernels that `call` launches on the current device, and return a function that launches them all.

    Run `call` once beforehand, so that everything is compiled and loaded. Raises RuntimeError if `call` waits for the
    device, and any error of `call`.
    """
    graph = torch.cuda.CUDAGraph()
    # thread_local: other threads of a worker may query the device meanwhile, for example about its memory.
    # The outer stream: a failed capture may leave its own stream as the current one.
    stream = torch.cuda.stream(torch.cuda.current_stream())
    with stream, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call()
    return graph.replay
