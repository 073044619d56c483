"""A tiny search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pretended import ALPHA, RATE, Pose

from ablate.data import CorpusInfo
from ablate.search.pose import load_search, pose


@pytest.fixture
def write_search(tmp_path: Path, corpus_file: Path) -> Callable[..., Path]:
    """A function that writes a tiny search. Its arguments replace top-level keys; None leaves a key out."""

    def write(**changes: Any) -> Path:
        declared: dict[str, Any] = {
            "search": "tiny",
            "data": {"source": "text", "path": str(corpus_file)},
            "model": {"d_model": 16, "n_layers": 1, "n_heads": 2, "context_length": 16},
            "train": {"steps": 12, "batch_size": 4, "eval_every": 4, "eval_tokens": 128, "log_every": 2},
            "space": {
                ALPHA: {"low": 0.005, "high": 0.5, "log": True},
                RATE: {"low": 1.0e-4, "high": 1.0e-1, "log": True},
            },
            "trials": 6,
            "confirm": {"seeds": 2},
        }
        path = tmp_path / "search.yaml"
        kept = {key: value for key, value in {**declared, **changes}.items() if value is not None}
        path.write_text(yaml.safe_dump(kept, sort_keys=False))
        return path

    return write


@pytest.fixture
def pose_search(write_search: Callable[..., Path], corpus_info: CorpusInfo) -> Pose:
    return lambda **changes: pose(load_search(write_search(**changes)), corpus_info)
