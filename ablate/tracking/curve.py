"""`curve.jsonl`: one line a logged step, appended, each step at most once.

The file is also the run's lease: whoever trains the run holds an exclusive lock on it, which the kernel gives back when
the process dies, however it dies. So two drivers never train one run at the same time.
"""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ablate.errors import AblateError


class BusyError(AblateError):
    """Another worker is training this run."""


class CurveWriter:
    """Appends lines to a run's curve and holds its lease until closed.

    Raises `BusyError` where another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._file: io.FileIO = path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise BusyError(f"{path.parent.name} is being trained by another process") from None

    def cut(self, keep_to: int) -> None:
        """Keep the lines up to the step `keep_to`, that of the checkpoint; drop the others, and a line half written."""
        self._file.seek(0)
        kept = 0
        for line in self._file.read().splitlines(keepends=True):
            record = parse_line(line)
            if record is None or record["step"] > keep_to:
                break
            kept += len(line)
        self._file.truncate(kept)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line. Not-a-number and infinity become null: JSON has no word for them."""
        clean = {key: _finite(value) for key, value in record.items()}
        self._file.write(json.dumps(clean, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CurveReader:
    """Follows a curve that is still being written: each `read` gives the lines that came since the last."""

    def __init__(self, path: Path) -> None:
        self.path, self.last_step, self._offset = path, 0, 0

    def read(self) -> list[dict[str, Any]]:
        """New complete lines beyond the last step seen. A curve that was cut back and grew again repeats nothing."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset = 0
                file.seek(self._offset)
                block = file.read()
        except FileNotFoundError:
            return []
        end = block.rfind(b"\n") + 1
        self._offset += end
        records = [record for record in map(parse_line, block[:end].splitlines()) if record is not None]
        new = [record for record in records if record["step"] > self.last_step]
        if new:
            self.last_step = new[-1]["step"]
        return new


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a curve; an empty list where there is none."""
    return CurveReader(path).read()


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The record of one line, or None where it is torn or not a record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if isinstance(record, dict) and isinstance(record.get("step"), int):
        return record
    return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
