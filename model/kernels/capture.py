"""Kernels launched once and replayed as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch


def capture(call: Callable[[], object]) -> Callable[[], None]:
    """What `call` launches on the current device, to be launched again at once.

    Everything that it compiles or loads has to be there: let it run before. Raises RuntimeError where it waits for the
    device, and as it does itself.
    """
    graph = torch.cuda.CUDAGraph()
    # thread_local: what other threads of a worker ask of the device, about its memory for one, is none of this.
    # The stream outside: a capture that fails may leave its own as the current one.
    stream = torch.cuda.stream(torch.cuda.current_stream())
    with stream, torch.cuda.graph(graph, capture_error_mode="thread_local"):
        call()
    return graph.replay
