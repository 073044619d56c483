"""The page about programs of one's own: its example works as shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from ablate.plan.json_schema import grid_schema
from ablate.study import load_study
from ablate.study.program import Program
from ablate.study.template import names_in

PAGE = (Path(__file__).parents[1] / "docs" / "own-program.md").read_text()
SCRIPT, GRID, COMMANDS, *FRAGMENTS = re.findall(r"^```\w*\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.timeout(300)
@pytest.mark.slow
def test_the_example_of_the_documentation_works_as_shown(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "grid.yaml").write_text(GRID)
    for command in COMMANDS.splitlines():
        words = [sys.executable, "-m", *command.split()]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "momentum=0.5 reaches momentum=0.0's final loss" in " ".join(done.stdout.split())
    summary = json.loads((tmp_path / "runs" / "momentum" / "report" / "summary.json").read_text())
    steps = next(row for row in summary["speedup"] if row["axis"] == "steps" and row["target"] == "final")
    assert 1.9 < steps["ratio"] < 2.1


def test_the_other_parts_of_the_page_are_valid_too(tmp_path: Path) -> None:
    for fragment in FRAGMENTS:
        grid = {**yaml.safe_load(GRID), **yaml.safe_load(fragment)}
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
        assert load_study(tmp_path / "grid.yaml").program is not None
    (pattern,) = re.findall(r"^  `(iter .*)`\.$", PAGE, re.MULTILINE)
    assert Program(command=("x",), pattern=pattern).pattern == (pattern,)
    provided = set(re.findall(r"`\{(\w+)\}`", PAGE.partition("come from ablate")[0].rpartition("\n- ")[2]))
    assert provided == {"seed", "run_dir", "run_id", "study", "grid_dir"}
    assert names_in("{{}} {train.lr}") == ["train.lr"]


def test_the_schema_covers_programs() -> None:
    validator = jsonschema.Draft202012Validator(grid_schema())
    grid = yaml.safe_load(GRID)
    good = [grid, {**grid, "model": {"any": [1]}, "data": {"x": 1}}, {key: grid[key] for key in grid if key != "train"}]
    for other in good:
        assert not list(validator.iter_errors(other))
    program = grid["program"]
    for wrong in ({"comand": "x"}, {**program, "metrics": {"a": "up"}}, {**program, "steps": 1.5}, {"pattern": "x"}):
        assert list(validator.iter_errors({**grid, "program": wrong}))
    assert list(validator.iter_errors({key: grid[key] for key in grid if key != "program"}))
