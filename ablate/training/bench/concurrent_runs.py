"""Time several runs that share one device, each in its own process."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
import torch._inductor.config
from torch.multiprocessing.spawn import ProcessException, spawn

from ablate.data import Corpus
from ablate.errors import ResourceError
from ablate.formatting import name_error
from ablate.study.schema import TrainConfig
from ablate.training.bench.timed_run import random_corpus, run_windows, start
from ablate.training.device import free_memory
from ablate.training.precision import forbid_tf32
from ablate_model import ModelConfig

PATIENCE_S = 600.0  # how long a process waits for the others, which may be compiling


def time_together(
    n: int, model: ModelConfig, train: TrainConfig, *, device: torch.device, threads: int, steps: int
) -> tuple[float, ...]:
    """Milliseconds per step for each window, when `n` processes train at once, until the last one has finished.

    The processes begin a window together and share the `threads`, with at least one each. The cache on disk should
    already hold their compiled code, from a process that trained the arm before. Raises `ResourceError` if one of them
    fails, for example because memory runs out; the others end with it.
    """
    free_memory(device)  # of the earlier measurement
    context = get_context("spawn")  # a process that has used CUDA cannot be forked
    barrier: Barrier = context.Barrier(n, timeout=PATIENCE_S)
    found: SimpleQueue[list[tuple[float, float]]] = context.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as folder:
        corpus = random_corpus(Path(folder), model, train)
        share = max(1, threads // n)
        try:
            spawn(_train, (model, train, corpus, device, share, steps, barrier, found), n, daemon=True)  # type: ignore[no-untyped-call]
        except ProcessException as error:
            raise ResourceError(f"{n} together: {name_error(error.msg)}") from error
    windows = zip(*(found.get() for _ in range(n)), strict=True)
    return tuple(
        1000 * (max(ended for _, ended in window) - min(began for began, _ in window)) / steps for window in windows
    )


def _train(
    _rank: int,
    model: ModelConfig,
    train: TrainConfig,
    corpus: Corpus,
    device: torch.device,
    threads: int,
    steps: int,
    barrier: Barrier,
    found: SimpleQueue[list[tuple[float, float]]],
) -> None:
    # On a GPU, Inductor starts a pool of compilers for each process, one per core, even if everything is cached. At its
    # end, a process waits for its pool, sometimes for minutes (github.com/pytorch/pytorch/issues/162199).
    torch._inductor.config.compile_threads = 1
    torch.set_num_threads(threads)
    forbid_tf32()
    training, _ = start(model, train, corpus, device)
    found.put(run_windows(training, steps, barrier.wait))
    os._exit(0)  # exit without waiting for the exit handlers of libraries
