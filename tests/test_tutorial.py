"""The tutorial runs from top to bottom, with the same output as in the repository."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"

# These warnings come from Jupyter's event loop, parsers and sockets.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.timeout(120),
]


def read_outputs(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """The content of each output: tables and text, and for a picture only its type."""
    shown = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            kind = "image/svg+xml" if "image/svg+xml" in data else "text/html" if "text/html" in data else "text/plain"
            shown.append((kind, "" if kind.startswith("image") else data[kind].replace("-0.0", "0.0")))
    return shown


def test_the_tutorial_says_what_it_said(tmp_path: Path) -> None:
    notebook = nbformat.read(TUTORIAL, as_version=4)
    stored = read_outputs(notebook)
    assert [kind for kind, _ in stored].count("image/svg+xml") == 3
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks").symlink_to(TUTORIAL.parents[1] / "benchmarks")
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path / "docs")}}).execute()
    fresh = read_outputs(notebook)
    assert [kind for kind, _ in fresh] == [kind for kind, _ in stored]
    assert fresh[0] == stored[0]
    assert "better 1.4" in fresh[0][1]
    assert (tmp_path / "docs" / "runs" / "tutorial" / "report" / "report.html").exists()
