"""Objects of JSON Lines files, also compressed ones, and the questions that such files hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.data.files import decompressed
from ablate.errors import DataError
from ablate.formatting import quote

QUERIES = ("query", "ctx")  # keys of a text that the choices continue as it is
LONGEST_LINE = 1 << 26


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each object with its place, as in `items.jsonl: line 3`. Raises `DataError`, naming file and line."""
    with decompressed(path) as (stream, _):
        number = 0
        while line := stream.readline(LONGEST_LINE):
            number += 1
            if line.isspace():
                continue
            place = f"{path}: line {number:,}"
            try:
                record = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{place}: is not UTF-8 (byte {error.start + 1})") from None
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: is not JSON: {error}") from None
            if not isinstance(record, dict):
                raise DataError(f"{place}: is not a JSON object: {quote(record, 60)}")
            yield place, record


@dataclass(frozen=True)
class ChoiceItem:
    """A question with its choices. The model reads `context`, then a space and one choice. `gold` counts from 0."""

    context: str
    choices: tuple[str, ...]
    gold: int


def read_choices(path: Path) -> Iterator[ChoiceItem]:
    """Read the items of a multiple-choice file.

    A line has `choices`, `gold`, and either `query` (or `ctx`), which is read as it is, or `question`, perhaps with a
    `context` before it, which becomes `Question: ...` and `Answer:` as in EleutherAI's harness.
    Raises `DataError`, naming file and line.
    """
    for place, record in read_objects(path):
        choices, gold = record.get("choices"), record.get("gold")
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c for c in choices):
            raise DataError(f"{place}: choices must be a list of at least two strings, got {quote(choices, 60)}")
        if not isinstance(gold, int) or isinstance(gold, bool) or not 0 <= gold < len(choices):
            legal = f"legal: 0 to {len(choices) - 1}"
            raise DataError(f"{place}: gold must be the number of a choice, got {quote(gold, 60)} ({legal})")
        yield ChoiceItem(_read_context(record, place), tuple(choices), gold)


def _read_context(record: Mapping[str, Any], place: str) -> str:
    key = next((key for key in (*QUERIES, "question") if key in record), None)
    if key is None:
        raise DataError(f"{place}: there is no key query, ctx or question (it has: {', '.join(record)})")
    text, before = _take_text(record, key, place), record.get("context", "")
    if key in QUERIES:
        return text
    return f"Question: {before}{' ' if before else ''}{text}\nAnswer:"


@dataclass(frozen=True)
class Turn:
    """A question about a story, and its correct answers. The first answer is the one to learn."""

    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Conversation:
    """A story and the questions about it, in order. A question may refer to earlier ones."""

    story: str
    turns: tuple[Turn, ...]


def read_conversations(path: Path) -> Iterator[Conversation]:
    """Read the conversations of a file. A line has `story` and `turns`, each with `q` and a list of `answers`.

    Raises `DataError`, naming file and line.
    """
    for place, record in read_objects(path):
        turns = record.get("turns")
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
            raise DataError(f"{place}: turns must be a list of objects, got {quote(turns, 60)}")
        yield Conversation(
            _take_text(record, "story", place),
            tuple(_read_turn(turn, f"{place}: turn {number}") for number, turn in enumerate(turns, 1)),
        )


def _read_turn(turn: Mapping[str, Any], place: str) -> Turn:
    answers = turn.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise DataError(f"{place}: answers must be a list of strings, got {quote(answers, 60)}")
    return Turn(_take_text(turn, "q", place), tuple(answers))


def _take_text(record: Mapping[str, Any], key: str, place: str) -> str:
    text = record.get(key)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place}: {key} must be text, got {quote(text, 60)}")
    return text
