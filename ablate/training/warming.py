"""Compiling the models of a grid ahead, into the caches on disk that all workers of a machine share."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from ablate.study.schema import TrainConfig
from ablate.training.bench.timed_run import MANY_STEPS, Nowhere, random_corpus
from ablate.training.compilation import kind_of
from ablate.training.device import prepare_process
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import Training
from ablate.training.stacked import Member, StackedTraining
from ablate_model import ModelConfig

MAX_TOKENS = 2**24  # of an evaluation; its first batch is compiled, and the others have the same shape


@dataclass(frozen=True)
class Kind:
    """Models that share compiled code: the arms that have it, what they train, and how many seeds train at once."""

    arms: tuple[str, ...]
    model: ModelConfig
    train: TrainConfig
    n_stacked: int = 1


def find_kinds(arms: Mapping[str, tuple[ModelConfig, TrainConfig]], n_stacked: int) -> list[Kind]:
    """The kinds of the arms that compile. With `n_stacked` above 1, seeds train as one batch of models."""
    found: dict[object, Kind] = {}
    for name, (model, train) in arms.items():
        if train.compile:
            key = kind_of(model, train, n_stacked)
            known = found[key].arms if key in found else ()
            found[key] = Kind((*known, name), model, train, n_stacked)
    return list(found.values())


def warm_kinds(kinds: Sequence[Kind], device: str, threads: int, workers: int) -> Iterator[tuple[Kind, float, str]]:
    """Compile the kinds in `workers` processes. Yields each with its seconds, and its error or "", as it is done."""
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    with ProcessPoolExecutor(min(workers, len(kinds)), context) as pool:
        tasks = {pool.submit(warm_kind, kind, device, threads): kind for kind in kinds}
        for task in as_completed(tasks):
            yield tasks[task], *task.result()


def warm_kind(kind: Kind, device: str, threads: int) -> tuple[float, str]:
    """Compile everything that a run calls: two steps, and an evaluation. Returns the seconds, and an error."""
    started = time.perf_counter()
    train = kind.train.model_copy(update={"steps": MANY_STEPS})
    try:
        prepare_process(train, device, threads)
        with tempfile.TemporaryDirectory(prefix="ablate-warm-") as folder:
            n_tokens = (
                min(train.eval_tokens, MAX_TOKENS) + kind.model.context_length
            )  # batches have the shapes of a run
            corpus = random_corpus(Path(folder), kind.model, train, n_tokens)
            task = LanguageModelling(kind.model, corpus, train.eval_tokens)
            training: Training
            if kind.n_stacked == 1:
                training = Training(task, train, 0, Nowhere(), torch.device(device))
            else:
                members = [Member(seed, Nowhere()) for seed in range(kind.n_stacked)]
                training = StackedTraining(task, train, members, torch.device(device))
            training.warm_up()
            training.step(1)
            training.step(2)  # in a graph, the kernels that update weights need the state of the first step
            training.evaluation.measure(0, 1, lambda: None)
    except Exception as error:  # noqa: BLE001 - other kinds may still compile
        return time.perf_counter() - started, f"{type(error).__name__}: {error}"
    return time.perf_counter() - started, ""
