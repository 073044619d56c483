"""Fixtures: a folder with a grid and a program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program_bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    """A function that makes a bench. Its arguments replace parts of `program` and top-level keys."""

    def make(program: dict[str, Any] | None = None, **changes: Any) -> Bench:
        own: dict[str, Any] = {
            "command": "python train.py",
            "pattern": r"step (?P<step>\d+): val loss (?P<val_loss>\S+)",
        }
        own = {key: value for key, value in {**own, **(program or {})}.items() if value is not None}
        grid = {"study": "mine", "program": own, "matrix": {"kind": ["plain", "new"]}, **changes}
        return Bench(tmp_path / "mine", {key: value for key, value in grid.items() if value is not None})

    return make
