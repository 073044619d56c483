"""The folder of a user with a file of their own, and the library that finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ablate.recipes.own import open_library
from ablate_model.own_code import LIBRARY


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Callable[[str, str], None]]:
    """A function that writes a user's file into the folder of the grid."""
    open_library()  # it takes over the folder of a grid that an earlier test read
    LIBRARY.look_in(tmp_path)

    def write_file(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        LIBRARY.look_in(tmp_path)

    yield write_file
    LIBRARY.folder = None
