"""Every expression in the documentation and the shipped files can be evaluated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ablate.plan.axes import Axes
from ablate.plan.expand import expand
from ablate.plan.tasks import read_names
from ablate.study import load_study, predicates
from ablate.study.yaml_source import parse_yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GRIDS = sorted((ROOT / "experiments").glob("*.yaml"))


def expressions(tree: Any, key: str = "") -> Iterator[str]:
    """The values of `when`, `exclude` and `conditions`, at any depth."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            inner = key if key == "conditions" else str(name)
            yield from expressions(value, inner)
    elif isinstance(tree, list):
        for value in tree:
            yield from expressions(value, key)
    elif isinstance(tree, str) and key in ("when", "exclude", "conditions"):
        yield tree


def documented() -> Iterator[tuple[str, str]]:
    yield from (("predicates.py", line) for line in (predicates.__doc__ or "").splitlines()[2:] if line)
    for page in PAGES:
        text = page.read_text()
        for block in re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            yield from ((page.name, found) for found in expressions(parse_yaml(block, page.name)[0]))
        yield from ((page.name, found) for found in re.findall(r"--where \"([^\"]+)\"", text))
    for grid in GRIDS:
        yield from ((grid.name, found) for found in expressions(parse_yaml(grid.read_text(), grid.name)[0]))


EXAMPLES = sorted(set(documented()))


def test_the_examples_are_found() -> None:
    assert {"README.md", "searching.md", "predicates.py", "quickstart.yaml"} <= {place for place, _ in EXAMPLES}


@pytest.mark.parametrize(("place", "text"), EXAMPLES)
def test_a_documented_expression_can_be_evaluated(place: str, text: str, tmp_path: Path) -> None:
    grid = {
        "study": "tiny",
        "model": {"d_model": 16, "n_layers": 1, "n_heads": 2},
        "train": {"steps": 8},
        "matrix": {
            "attention": ["standard", "differential"],
            "normalization": ["prenorm", "ngpt"],
            "context_length": [256, 512],
        },
    }
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(grid))
    study = load_study(path)
    axes = Axes(study, read_names(), study.axes)
    predicate = axes.compile(text, study.place())
    for arm in expand(study, axes).arms:
        assert isinstance(predicate(axes.environment(arm)), bool), place
