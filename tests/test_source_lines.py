"""The line of the grid below an error message, with a caret under the wrong word; words that other programs use."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.cli.source_lines import point_at
from ablate.data import CorpusInfo
from ablate.errors import GridError
from ablate.plan import build_plan
from ablate.study.load import load_study

GRID = """\
study: words
model: {d_model: 64, n_layers: 2, n_heads: 4, context_length: 64}
train: {steps: 20, batch_size: 8}
matrix:
  normalization: [prenorm, ngpt]
"""


@pytest.mark.parametrize(
    ("right", "wrong", "meant", "under"),
    [
        ("batch_size", "batch", "batch_size", "batch"),
        ("prenorm, ngpt", "prenorm, nGPT", "ngpt", "nGPT"),
        ("  normalization: ", "  lr: [0.1]\n  normalization: ", "train.learning_rate", "lr"),
        ("  normalization: ", "  n_embd: [64]\n  normalization: ", "model.d_model", "n_embd"),
        ("n_heads", "num_heads", "n_heads", "num_heads"),
        ("steps: 20", "steps: 20, optimizer: AdamW", "adamw", "AdamW"),
        ("  normalization: ", "  attention: [softmax]\n  normalization: ", "standard", "softmax"),
        ("matrix", "sweep", "matrix", "sweep"),
    ],
)
def test_the_word_of_another_program_is_named_and_marked(
    right: str, wrong: str, meant: str, under: str, tmp_path: Path, corpus_info: CorpusInfo
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID.replace(right, wrong, 1))
    with pytest.raises(GridError) as caught:
        build_plan(load_study(path), corpus_info)
    message = next(line for line in str(caught.value).splitlines() if "did you mean" in line)
    assert f"did you mean '{meant}'?" in message
    line, caret = point_at(message)
    assert line[caret.index("^") :].startswith(under)


def test_a_syntax_error_is_marked_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("study: x\ntrain:\n  steps: 20\n   batch_size: 8\n")
    with pytest.raises(GridError) as caught:
        load_study(path)
    line, caret = point_at(str(caught.value), caught.value.column)
    assert (line, caret) == ("  4 |    batch_size: 8", "    |              ^")


@pytest.mark.parametrize("message", ["no place here", "missing.yaml:3: x: y", "{file}:99: a: b", "{file}:1: nothing"])
def test_what_cannot_be_shown_is_left_out(message: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    assert list(point_at(message.format(file=path))) == []
