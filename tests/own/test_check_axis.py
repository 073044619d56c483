"""`ablate check` finds the axis of a class, and says when it is a guess."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from ablate.cli.check import check
from ablate_model import ConfigError

MODULE = """from torch import nn
class Wide(nn.Module):
    def __init__(self, d_model{more}):
        super().__init__()
    def forward(self, x):
        return x.gone
"""


@pytest.mark.parametrize(
    ("file", "more", "axis"),
    [
        ("mine.py", "", "attention"),
        ("mine.py", ", d_ff", "mlp"),
        ("my_mlp.py", "", "mlp"),
        ("rms_norm.py", "", "normalization"),
    ],
)
def test_the_axis_of_a_plain_module_is_a_guess_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, more: str, axis: str
) -> None:
    (tmp_path / file).write_text(MODULE.format(more=more))
    with pytest.raises(typer.Exit) as ended:
        check(str(tmp_path / file))
    assert ended.value.exit_code == 1
    assert f"axis: {axis} (a guess; --axis sets it)" in capsys.readouterr().out
    with pytest.raises(typer.Exit):
        check(str(tmp_path / file), axis="mlp")
    assert "axis: mlp\n" in capsys.readouterr().out


def test_a_broken_file_is_named_without_a_key_of_a_grid(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(:")
    with pytest.raises(ConfigError, match=r"^mine\.py:1|^/.*mine\.py:1"):
        check(str(tmp_path / "mine.py"))
