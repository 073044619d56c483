"""Fixtures that tests in several folders share."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ablate.cli import main
from ablate.data import CorpusInfo
from foreign_runs import Experiments

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "attention",
    "norm",
    "model",
    "learns",
    "faster",
    "than",
    "a",
    "query",
    "key",
    "value",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests with the longest timeouts first, so that no worker starts one of them at the end."""

    def allowed_s(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return float(mark.args[0]) if mark is not None else 0.0

    items.sort(key=allowed_s, reverse=True)


@pytest.fixture
def call_ablate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """A function that runs the command in the current folder and returns exit code, output and error output."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ablate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 200 kB of text from which a small model can learn."""
    draw = random.Random(0)
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text(" ".join(draw.choice(WORDS) for _ in range(40_000)))
    return path


@pytest.fixture
def corpus_info() -> CorpusInfo:
    """A corpus whose sizes are all that matters."""
    return CorpusInfo(hash="c0ffee", n_train_tokens=1_000_000, n_validation_tokens=100_000, vocab_size=256)


@pytest.fixture
def write_grid(tmp_path: Path, corpus_file: Path) -> Callable[..., Path]:
    """A function that writes a tiny grid. Its arguments replace top-level keys; None leaves a key out."""

    def write(**changes: Any) -> Path:
        grid: dict[str, Any] = {
            "study": "tiny",
            "question": "Does it run?",
            "data": {"source": "text", "path": str(corpus_file)},
            "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16},
            "train": {
                "steps": 12,
                "batch_size": 4,
                "eval_every": 4,
                "eval_tokens": 128,
                "log_every": 2,
                "checkpoint_every": 4,
            },
            "matrix": {"attention": ["standard", "differential"], "normalization": ["prenorm", "ngpt"]},
            "baseline": {"attention": "standard", "normalization": "prenorm"},
        }
        grid = {key: value for key, value in {**grid, **changes}.items() if value is not None}
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(grid, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Experiments:
    """An MLflow on SQLite with the empty experiment `neighbour`. Each test logs into an experiment of its own."""
    return Experiments(tmp_path_factory.mktemp("mlflow") / "of others.db")
