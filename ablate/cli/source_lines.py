"""The line of a file that an error message is about, with a caret under the wrong word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ablate.files import check_regular

_PLACE = re.compile(r"(?P<file>[^:\n]+):(?P<line>\d+): (?P<rest>.*)", re.DOTALL)
_QUOTED = re.compile(r"'([^'\n]+)'")
_KEY = re.compile(r"([\w.-]+): ")
MAX_BYTES = 1_000_000
MAX_COLUMNS = 120


def point_at(message: str, column: int | None = None) -> Iterator[str]:
    """Yield the line and its caret if the message begins with `FILE:LINE: ` and names a word; otherwise nothing.

    The caret stands at the `column` (from 0) if one is given, or else under the first quoted word of the message that
    is in the line, or else under the last key that the message names.
    """
    if (place := _PLACE.match(message)) is None or (text := _read(Path(place["file"]), int(place["line"]))) is None:
        return
    before = place["rest"].partition(" (legal:")[0]
    keys = [part for key in _KEY.findall(before) for part in key.split(".")]
    if column is None:
        words = (*_QUOTED.findall(before), *reversed(keys))
        column = next((at for word in words if (at := _find(word, text)) >= 0), None)
    if column is not None and column < MAX_COLUMNS:
        margin = f"  {place['line']} | "
        yield f"{margin}{text[:MAX_COLUMNS]}"
        yield f"{' ' * (len(margin) - 2)}| {' ' * column}^"


def _find(word: str, text: str) -> int:
    found = re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", text)
    return found.start() if found else -1


def _read(path: Path, line: int) -> str | None:
    """The line of the file without tabs; None if there is no such line or it cannot be shown."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            lines = file.read(MAX_BYTES).decode().splitlines()
    except (OSError, ValueError):
        return None
    text = lines[line - 1].replace("\t", " ") if 0 < line <= len(lines) else ""
    return text if text.strip() and text.isprintable() else None
