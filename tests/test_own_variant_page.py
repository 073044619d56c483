"""The example of docs/own-variant.md works as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from ablate.study.schema import TrainConfig
from ablate_model.config import TABLES

PAGE = (Path(__file__).parents[1] / "docs" / "own-variant.md").read_text()


def test_the_example_of_the_page_can_be_planned(tmp_path: Path) -> None:
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (grid,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_attention.py").write_text(source)
    (tmp_path / "words.txt").write_text("to be or not to be " * 2000)
    (tmp_path / "grid.yaml").write_text(grid + "data: {source: text, path: words.txt}\n")
    command = [sys.executable, "-m", "ablate", "plan", "grid.yaml", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    arms = {row["arm"]: row for row in json.loads(done.stdout)}
    mine = arms["attention=my_attention.py:MyAttention(start=2.0)"]
    assert mine["n_params"] == arms["attention=standard"]["n_params"] + 2 * 4  # a temperature per head
    assert mine["flops_per_token"] == arms["attention=standard"]["flops_per_token"]


def test_the_table_of_the_page_has_every_key() -> None:
    keys = set(re.findall(r"`model\.(\w+)`", PAGE.partition("## What is checked")[0]))
    assert keys == set(TABLES)
    assert {"optimizer", "schedule"} <= set(TrainConfig.model_fields)
