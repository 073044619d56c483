"""The log files below the given paths, and the notes about what was done with them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.analysis.checked_records import clean
from ablate.errors import RecordError

HEAD = 1 << 16  # bytes from which a file's format is recognized
_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_NAMED = 3


@dataclass(frozen=True, eq=False)
class LogFile:
    """A file that may be a log. `is_given` means that the user named the file itself and not a folder above it."""

    path: Path
    is_given: bool
    head: bytes
    memory: dict[str, Any] = field(default_factory=dict)  # what was found out about it

    @property
    def folders(self) -> tuple[str, ...]:
        return Path(os.path.abspath(self.path)).parent.parts[1:]  # noqa: PTH100 - links keep their names

    @property
    def stem(self) -> str:
        return self.path.stem


class Notes:
    """What was done with the logs that their reader must know, by reason."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, about: Path | str, reason: str, detail: str = "") -> None:
        """Add a note about a file or run. The same note about the same thing is kept once.

        Notes are published, so of a path they tell only the file and its folder.
        """
        text = "/".join(about.parts[-2:]) if isinstance(about, Path) else about
        text = " ".join(str(clean(f"{text}, {detail}" if detail else text)).split())
        known = self._found.setdefault(" ".join(str(clean(reason)).split()), [])
        if text not in known:
            known.append(text)

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(f"{_join(about)}: {reason}" for reason, about in self._found.items())


def find_logs(paths: Sequence[str]) -> list[LogFile]:
    """Find the files that may be logs: those that were given, and those below given folders whose names fit.

    Links to folders and hidden folders are not followed. Raises `RecordError` if there is no such file or folder, or
    if a folder has no such file.
    """
    found: dict[Path, LogFile] = {}
    for text in paths:
        path = Path(text)
        if path.is_file():
            found[path.absolute()] = LogFile(path, True, _read_head(path))
            continue
        if not path.is_dir():
            raise RecordError(f"{text}: there is no such {'file or folder' if not path.exists() else 'regular file'}")
        below = list(_walk(path))
        if not below:
            raise RecordError(
                f"{text}: no log in this folder: it has no trainer_state.json, no TensorBoard event file, and no file "
                f"that ends in {', '.join(_ENDINGS)}"
            )
        for file in below:
            found.setdefault(file.absolute(), LogFile(file, False, _read_head(file)))
    return list(found.values())


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts version_2 before version_10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", text) if part]


def _walk(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        below[:] = sorted((name for name in below if not name.startswith(".")), key=natural)
        for name in sorted(files, key=natural):
            is_log = name.lower().endswith(_ENDINGS) or name == "trainer_state.json" or "tfevents" in name
            path = Path(folder, name)
            if is_log and not name.startswith(".") and path.is_file() and path.stat().st_size:
                yield path


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _join(about: Sequence[str]) -> str:
    more = f" and {len(about) - _NAMED} more" if len(about) > _NAMED else ""
    return f"{', '.join(about[:_NAMED])}{more}"
