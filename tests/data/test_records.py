"""Questions from JSON Lines."""

from __future__ import annotations

import bz2
import json
from pathlib import Path
from typing import Any

import pytest

from ablate.data.records import ChoiceItem, Turn, read_choices, read_conversations
from ablate.errors import DataError


def test_the_forms_of_a_question_are_read(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "query": "Question: why?\nAnswer:", "choices": ["yes", "no"], "gold": 1},
        {"ctx": "He ran", "choices": ["home.", "up."], "gold": 0},
        {"question": "Why?", "choices": ["yes", "no"], "gold": 0},
        {"context": "It rains.", "question": "Why?", "choices": ["a", "b", "c"], "gold": 2},
    ]
    path = tmp_path / "items.jsonl.bz2"
    path.write_bytes(bz2.compress("\n".join(map(json.dumps, rows)).encode()))
    assert list(read_choices(path)) == [
        ChoiceItem("Question: why?\nAnswer:", ("yes", "no"), 1),
        ChoiceItem("He ran", ("home.", "up."), 0),
        ChoiceItem("Question: Why?\nAnswer:", ("yes", "no"), 0),
        ChoiceItem("Question: It rains. Why?\nAnswer:", ("a", "b", "c"), 2),
    ]


def test_conversations_are_read(tmp_path: Path) -> None:
    path = tmp_path / "stories.jsonl"
    path.write_text(json.dumps({"id": 1, "story": "A cat.", "turns": [{"q": "Who?", "answers": ["cat", "a cat"]}]}))
    (found,) = read_conversations(path)
    assert found.story == "A cat."
    assert found.turns == (Turn("Who?", ("cat", "a cat")),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: is not JSON"),
        ("[1]", r"line 2: is not a JSON object: \[1\]"),
        ('{"query": "q", "choices": ["a"], "gold": 0}', "line 2: choices must be a list of at least two strings"),
        ('{"query": "q", "choices": ["a", "b"], "gold": 2}', r"line 2: gold must be .* got 2 \(legal: 0 to 1\)"),
        ('{"sentence": "a _ b", "choices": ["a", "b"], "gold": 1}', "no key query, ctx or question .*sentence"),
        ('{"query": " ", "choices": ["a", "b"], "gold": 1}', "line 2: query must be text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(DataError, match=message):
        list(read_choices(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"turns": []}, "turns must be a list"),
        ({"turns": [{"q": "Who?", "answers": []}]}, "turn 1: answers must be a list of strings"),
        ({"story": 3}, "story must be text, got 3"),
    ],
)
def test_a_bad_conversation_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "stories.jsonl"
    path.write_text(json.dumps({"story": "A cat.", "turns": [{"q": "Who?", "answers": ["cat"]}], **change}))
    with pytest.raises(DataError, match=f"stories.jsonl: line 1: {message}"):
        list(read_conversations(path))
