"""Start a run on random tokens and time its steps in windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablate.data import Corpus, CorpusInfo
from ablate.study.schema import TrainConfig
from ablate.training.compilation import forget_compiled
from ablate.training.device import free_memory, now
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import Training
from ablate_model import ModelConfig

WINDOWS = 5  # whose median is reported
WARM_UP_STEPS = 3
MANY_STEPS = 1_000_000  # length of the schedule, which is never reached


class Nowhere:
    """A recorder that keeps nothing."""

    def log(self, record: Mapping[str, Any]) -> None: ...

    def save(self, state: dict[str, Any]) -> None: ...

    def is_writing(self) -> bool:
        return False

    def load(self) -> dict[str, Any] | None:
        return None

    def wants_weights(self, step: int) -> bool:  # noqa: ARG002
        return False

    def keep_weights(self, step: int, weights: Mapping[str, Any]) -> None: ...

    def beat(self, step: int) -> None: ...


def random_corpus(folder: Path, model: ModelConfig, train: TrainConfig, n_tokens: int = 0) -> Corpus:
    """Write random tokens for a few batches into `folder`, at least `n_tokens` per split."""
    n = max(n_tokens, 4 * train.batch_size * model.context_length)
    tokens = np.random.default_rng(0).integers(model.vocab_size, size=n, dtype=np.uint32)
    for split in ("train", "validation"):
        tokens.tofile(folder / f"{split}.bin")
    info = CorpusInfo("random", n, n, model.vocab_size)
    return Corpus(info, folder / "train.bin", folder / "validation.bin", "<u4")


def start(model: ModelConfig, train: TrainConfig, corpus: Corpus, device: torch.device) -> tuple[Training, float]:
    """Start a run that is new to this process. Returns it after its first step, with the seconds that this took."""
    forget_compiled()
    free_memory(device)
    train = train.model_copy(update={"steps": MANY_STEPS})
    started = now(device)
    task = LanguageModelling(model, corpus, train.eval_tokens)
    training = Training(task, train, 0, Nowhere(), device)
    training.warm_up()
    training.step(1)
    return training, now(training.device) - started


def run_windows(
    training: Training, steps: int, gather: Callable[[], object] = lambda: None
) -> list[tuple[float, float]]:
    """Train `WINDOWS` windows of `steps` steps. Returns when each began and ended, by a clock that all processes share.

    `start` must have begun the run. `gather` is called before each window, when the device is idle.
    """
    for step in range(WARM_UP_STEPS):
        training.step(step + 2)
    moments = []
    for window in range(WINDOWS):
        now(training.device)
        gather()
        began = now(training.device)
        for step in range(steps):
            training.step(WARM_UP_STEPS + 2 + window * steps + step)
        moments.append((began, now(training.device)))
    return moments
