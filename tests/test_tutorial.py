"""The notebooks of the documentation run from top to bottom, with the same output as in the repository."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ablate.data import CorpusInfo
from ablate.plan import build_plan
from ablate.study import load_study

DOCS = Path(__file__).parents[1] / "docs"

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
            data = output.get("data", {"text/plain": output.get("text", "")})
            kind = "image/svg+xml" if "image/svg+xml" in data else "text/html" if "text/html" in data else "text/plain"
            shown.append((kind, "" if kind.startswith("image") else data[kind].replace("-0.0", "0.0")))
    return shown


def execute(name: str, folder: Path, seconds: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The outputs of a notebook as stored, and as they are now."""
    notebook = nbformat.read(DOCS / name, as_version=4)
    stored = read_outputs(notebook)
    NotebookClient(notebook, timeout=seconds, resources={"metadata": {"path": str(folder)}}).execute()
    return stored, read_outputs(notebook)


@pytest.mark.slow
def test_the_notebook_about_speedups_says_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks").symlink_to(DOCS.parent / "benchmarks")
    stored, fresh = execute("speedup.ipynb", tmp_path / "docs", 60)
    assert [kind for kind, _ in stored].count("image/svg+xml") == 3
    assert [kind for kind, _ in fresh] == [kind for kind, _ in stored]
    assert fresh[0] == stored[0]
    assert "better 1.4" in fresh[0][1]
    assert (tmp_path / "docs" / "runs" / "tutorial" / "report" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_trains_to_a_verdict(tmp_path: Path) -> None:
    stored, fresh = execute("tutorial.ipynb", tmp_path, 600)
    for outputs in (stored, fresh):
        answer = next(text for kind, text in outputs if kind == "text/html")
        assert re.search("final loss.*(better|worse|equivalent|undecided)", answer)
        assert [kind for kind, _ in outputs].count("image/svg+xml") == 1
    assert (tmp_path / "runs" / "tutorial" / "study.json").exists()


def test_the_grid_of_the_tutorial_can_be_planned(tmp_path: Path, corpus_info: CorpusInfo) -> None:
    cells = nbformat.read(DOCS / "tutorial.ipynb", as_version=4).cells
    (grid,) = re.findall(r'write_text\("""\n(.*?)"""\)', "\n".join(cell.source for cell in cells), re.DOTALL)
    (tmp_path / "grid.yaml").write_text(grid)
    assert len(build_plan(load_study(tmp_path / "grid.yaml"), corpus_info).runs) == 6
