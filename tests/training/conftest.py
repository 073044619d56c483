"""A small corpus, and a recorder with lines in memory and checkpoints in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.data import Corpus, CorpusInfo
from ablate.study.schema import TrainConfig
from ablate.training.checkpoint import read_checkpoint, write_checkpoint
from ablate.training.contract import Outcome
from ablate.training.language_model import LanguageModelling
from ablate.training.loop import train
from ablate_model import ModelConfig

VOCABULARY = 32
CONTEXT = 12


class Recording:
    """A recorder that writes checkpoints in the real file format."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        self.beats: list[int] = []
        self.saved: list[int] = []
        self.snapshots: dict[int, Any] = {}

    def log(self, record: dict[str, Any]) -> None:
        self.lines.append(dict(record))

    def save(self, state: dict[str, Any]) -> None:
        self.saved.append(state["progress"]["step"])
        write_checkpoint(self.path, state)

    def is_writing(self) -> bool:
        return False

    def load(self) -> dict[str, Any] | None:
        return read_checkpoint(self.path)

    def wants_weights(self, step: int) -> bool:
        return step in self.snapshots

    def keep_weights(self, step: int, weights: Mapping[str, Any]) -> None:
        self.snapshots[step] = {name: tensor.clone() for name, tensor in weights.items()}

    def beat(self, step: int) -> None:
        self.beats.append(step)

    def curve(self) -> list[dict[str, Any]]:
        """The lines without values that depend on the clock."""
        return [{k: v for k, v in line.items() if k not in ("wall_s", "tokens_per_s")} for line in self.lines]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Tokens with some structure: each is mostly the previous one plus a constant."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    for name, n_tokens in (("train.bin", 4000), ("validation.bin", 600)):
        (np.cumsum(generator.choice([1, 1, 1, 5], n_tokens)) % VOCABULARY).astype(np.uint8).tofile(folder / name)
    info = CorpusInfo("hash", 4000, 600, VOCABULARY)
    return Corpus(info, folder / "train.bin", folder / "validation.bin", "|u1")


@pytest.fixture
def model_config() -> ModelConfig:
    return ModelConfig(d_model=16, n_layers=1, n_heads=2, vocab_size=VOCABULARY, context_length=CONTEXT)


@pytest.fixture(
    params=[
        {"attention": {"name": "selective", "memory_weight": 0.1}},
        {"normalization": {"name": "ngpt", "branch_orthogonality": 0.1}},
    ],
    ids=["selective", "ngpt"],
)
def penalized(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of a model whose modules add a penalty to the loss."""
    settings: dict[str, Any] = request.param
    return settings


@pytest.fixture
def make_train_config() -> Callable[..., TrainConfig]:
    def make(**settings: Any) -> TrainConfig:
        defaults = {
            "steps": 12,
            "batch_size": 4,
            "learning_rate": 0.01,
            "warmup_steps": 2,
            "weight_decay": 0.1,
            "log_every": 3,
            "eval_every": 5,
            "eval_tokens": 8 * CONTEXT,
            "checkpoint_every": 1000,
        }
        return TrainConfig(**{**defaults, **settings})

    return make


@pytest.fixture
def new_recording(tmp_path: Path) -> Callable[[], Recording]:
    count = iter(range(1000))
    return lambda: Recording(tmp_path / f"checkpoint-{next(count)}.pt")


@pytest.fixture
def run(corpus: Corpus, new_recording: Callable[[], Recording]) -> Callable[..., tuple[Outcome, Recording]]:
    """Train on the CPU: (outcome, recording)."""

    def run_once(
        model_config: ModelConfig,
        train_config: TrainConfig,
        seed: int = 0,
        recording: Recording | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> tuple[Outcome, Recording]:
        recording = recording or new_recording()
        task = LanguageModelling(model_config, corpus, train_config.eval_tokens)
        outcome = train(task, train_config, seed, recording, device="cpu", threads=1, should_stop=should_stop)
        return outcome, recording

    return run_once
