"""How fast several runs train that share one device, each in a process of its own."""

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

PATIENCE_S = 600.0  # of one process for the others, of which the slowest may be compiling


def time_together(
    n: int, model: ModelConfig, train: TrainConfig, *, device: torch.device, threads: int, steps: int
) -> tuple[float, ...]:
    """Milliseconds of a step that `n` processes make at once, for each window: until the last has ended its steps.

    The processes begin a window together, and share out the `threads`, at least one each. What they compile should be
    in the cache on disk already, by a process that trained the arm alone.
    Raises `ResourceError` where one of them fails, by want of memory for one, or dies; the others end with it.
    """
    free_memory(device)  # of what was measured alone before
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
    # On a GPU Inductor starts a pool of compilers for each process, one a core, even where all is in the cache, and a
    # process waits for its pool at its end, sometimes for minutes (github.com/pytorch/pytorch/issues/162199).
    torch._inductor.config.compile_threads = 1
    torch.set_num_threads(threads)
    forbid_tf32()
    training, _ = start(model, train, corpus, device)
    found.put(run_windows(training, steps, barrier.wait))
    os._exit(0)  # all is said; nothing that a library does at the end is waited for
