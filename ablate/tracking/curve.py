"""`curve.jsonl`: one line a logged step, appended, each step at most once.

The file is also the run's lease: whoever trains the run holds an exclusive lock on it, which the kernel gives back when
the process dies, however it dies. So two drivers never train one run at the same time.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from ablate.errors import AblateError


class BusyError(AblateError):
    """Another worker is training this run."""


class CurveWriter:
    """Appends lines to a run's curve and holds its lease until closed.

    Raises `BusyError` where another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self._file: io.FileIO = path.open("a+b", buffering=0)
        self.n_bytes, self.crc32 = 0, 0
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise BusyError(f"{path.parent.name} is being trained by another process") from None

    def rewind(self, n_bytes: int, crc32: int) -> bool:
        """Drop what came after the first `n_bytes`; False, and nothing dropped, where those are not the ones saved."""
        if file_crc32(self._file, n_bytes) != crc32:
            return False
        self._file.truncate(n_bytes)
        self.n_bytes, self.crc32 = n_bytes, crc32
        return True

    def replace(self, content: bytes) -> None:
        """Take over the lines of the same run elsewhere. Raises `OSError` where the disk has no room for them."""
        self.rewind(0, 0)
        self._write(content)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line. Not-a-number and infinity become null: JSON has no word for them.

        Raises `OSError` where the disk has no room for the whole line.
        """
        clean = {key: _finite(value) for key, value in record.items()}
        line = json.dumps(clean, separators=(",", ":")).encode() + b"\n"
        self._write(line)

    def _write(self, content: bytes) -> None:
        if self._file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        self.n_bytes, self.crc32 = self.n_bytes + len(content), zlib.crc32(content, self.crc32)

    def sync(self) -> None:
        """Wait for the disk, so that the death of the machine leaves the lines written so far."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
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
        self.path, self.last_step = path, 0
        self._offset, self._last_line = 0, b""  # the line that ended there

    def read(self) -> list[dict[str, Any]]:
        """New complete lines beyond the last step seen. A curve that was cut back and grew again repeats nothing, and
        omits nothing: where it grew past the place of the last look meanwhile, that place is in the middle of a line,
        so a curve that no longer has the last line there is read from its start."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset - len(self._last_line))
                if file.read(len(self._last_line)) != self._last_line:
                    file.seek(0)
                    self._offset, self._last_line = 0, b""
                block = file.read()
        except FileNotFoundError:
            return []
        end = block.rfind(b"\n") + 1
        lines = block[:end].splitlines(keepends=True)
        if lines:
            self._offset, self._last_line = self._offset + end, lines[-1]
        records = [record for record in map(parse_line, lines) if record is not None]
        new = [record for record in records if record["step"] > self.last_step]
        if new:
            self.last_step = new[-1]["step"]
        return new


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a curve; an empty list where there is none."""
    return CurveReader(path).read()


def file_crc32(file: IO[bytes], n_bytes: int) -> int | None:
    """The CRC-32 of the first `n_bytes`; None where the file is shorter."""
    file.seek(0)
    content = file.read(n_bytes)
    return zlib.crc32(content) if len(content) == n_bytes else None


def is_held(path: Path) -> bool:
    """Whether somebody trains the run of this curve now."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The record of one line, or None where it is torn or not a record."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # the latter of brackets in brackets
        return None
    if isinstance(record, dict) and isinstance(record.get("step"), int):
        return record
    return None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
