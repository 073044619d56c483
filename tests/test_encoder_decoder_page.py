"""The code of docs/encoder-decoder.md runs as it stands, one block after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[1] / "docs" / "encoder-decoder.md").read_text()


def test_the_code_of_the_page_runs() -> None:
    names: dict[str, Any] = {}
    shapes = []
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
        shapes.append(tuple(names["logits"].shape))
    promised = [tuple(map(int, found.split(", "))) for found in re.findall(r"logits = .*# \(([\d, ]+)\)", PAGE)]
    assert [shapes[0], *shapes[2:]] == promised == [(8, 12, 100), (8, 20, 100), (8, 10)]
    assert names["found"].shape[0] == 8
    assert names["found"].shape[1] <= 17
    assert names["loss"].isfinite()
