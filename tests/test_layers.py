"""Which folder imports which. An import that is not listed here is a design change and needs a reason."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LEAVES = {"errors", "files", "formatting", "metrics"}
ARROWS = {
    "recipes": {"ablate_model"},
    "study": {"recipes"},
    "data": {"study"},
    "sources": set(),
    "plan": {"recipes", "study", "data", "sources", "tasks", "tracking", "evaluation", "ablate_model"},
    "training": {"recipes", "study", "data", "ablate_model"},
    "starters": set(),
    "tracking": set(),
    "tasks": {"study", "data", "sources", "training", "tracking", "ablate_model"},
    "execution": {
        "study",
        "data",
        "plan",
        "sources",
        "training",
        "tracking",
        "tasks",
        "evaluation",
        "ablate_model",
    },
    "analysis": {"study", "tracking"},
    "campaign": {"tracking", "analysis"},
    "imports": {"study", "tracking", "analysis"},
    "report": {"analysis", "tracking"},
    "sequential": {"study", "plan", "execution", "tracking", "analysis"},
    "search": {"study", "data", "plan", "execution", "tracking", "analysis", "report", "ablate_model"},
    "evaluation": {"study", "data", "tracking", "ablate_model"},
    "records": {"study", "data", "plan", "tasks", "tracking", "analysis", "evaluation", "report", "ablate_model"},
    "cli": {
        "study",
        "data",
        "plan",
        "execution",
        "training",
        "tasks",
        "tracking",
        "analysis",
        "campaign",
        "imports",
        "records",
        "report",
        "search",
        "sequential",
        "evaluation",
        "starters",
        "recipes",
        "ablate_model",
    },
    "run_log": {"sources"},
    "__main__": {"cli"},
}
ROOMS = [name for name in ARROWS if (ROOT / "ablate" / name).is_dir()]


def imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def room_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] == "ablate_model":
        return "ablate_model"
    return parts[1] if parts[0] == "ablate" and len(parts) > 1 else None


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_imports_only_its_neighbours(room: str) -> None:
    place = ROOT / "ablate" / room
    files = list(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    assert files
    for path in files:
        rooms = {found for name in imported_names(path) if (found := room_of(name))}
        assert rooms - {room} <= ARROWS[room] | LEAVES, path


def test_every_file_of_the_package_is_in_the_picture() -> None:
    names = {
        path.stem for path in (ROOT / "ablate").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert names - LEAVES - {"__init__"} == set(ARROWS)


def test_the_table_of_rooms_is_the_tree() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    rows = dict(re.findall(r"^\| (`.*?`) \| .*? \|(.*)\|$", page, re.MULTILINE))
    told = {
        name.removeprefix("ablate/"): cell.strip() for key, cell in rows.items() for name in key[1:-1].split("`, `")
    }
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout
    paths = [Path(line).parts for line in listed.splitlines()]
    folders = {parts[0] for parts in paths if len(parts) > 1 and not parts[0].startswith(".")} - {"ablate"}
    assert told.keys() == folders | {parts[1] for parts in paths if parts[0] == "ablate"} - {"py.typed"}
    for room, arrows in ARROWS.items():
        cell = told.get(room) or told[f"{room}.py"]
        names = {"ablate_model" if name == "model" else name for name in cell.split(", ")}
        assert names == (arrows or {"nothing"}) or (cell == "all, lazily" and room == "cli")


def test_the_paths_that_contributing_names_exist() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"\b(?:ablate|model|tests|experiments|docs|benchmarks)/[\w/.-]*\w", page))
    assert named
    for name in named:
        assert (ROOT / name).exists(), name


def test_the_model_package_never_imports_ablate() -> None:
    for path in (ROOT / "model").rglob("*.py"):
        assert "ablate" not in {name.split(".")[0] for name in imported_names(path)}, path


@pytest.mark.parametrize(
    ("room", "foreign"),
    [
        ("recipes", {"ray", "mlflow", "random", "time", "datetime"}),
        ("study", {"torch", "ray", "mlflow", "random", "time", "datetime"}),
        ("sources", {"torch", "ray", "mlflow", "random", "time", "datetime"}),
        ("plan", {"ray", "mlflow", "random", "time", "datetime"}),
        ("data", {"torch", "ray", "mlflow"}),
        ("training", {"ray", "mlflow"}),
        ("analysis", {"torch", "ray", "mlflow", "random", "time", "datetime"}),
        ("imports", {"torch", "ray", "random", "time", "datetime"}),
        ("report", {"torch", "ray", "mlflow"}),
        ("tracking", {"torch", "ray"}),
        ("tasks", {"ray", "mlflow"}),
    ],
)
def test_a_room_keeps_out_what_is_foreign_to_it(room: str, foreign: set[str]) -> None:
    for path in (ROOT / "ablate" / room).rglob("*.py"):
        assert not {name.split(".")[0] for name in imported_names(path)} & foreign, path


@pytest.mark.parametrize(
    "statement", ["import ablate.cli", "import ablate.study", "import ablate.report", "import ablate.tracking.folders"]
)
def test_looking_at_results_loads_no_torch(statement: str) -> None:
    code = f"{statement}; import sys; print(sorted({{'torch', 'ray', 'mlflow'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
