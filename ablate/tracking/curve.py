"""`curve.jsonl`: one line a logged step, appended, each step at most once.

The file is also the run's lease: whoever trains the run holds an exclusive lock on it, which the kernel gives back when
the process dies, however it dies. So two drivers never train one run at the same time.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Self

from ablate.errors import AblateError, RecordError
from ablate.files import open_regular
from ablate.tracking.study_record import MAX_COUNT

BLOCK_BYTES = 2**18
MAX_LINE_BYTES = 2**20  # a line has some hundred bytes; a longer one is no record, and is not held in memory
# What opening a file fails with where the file itself is in the way, and not its folder or the disk.
_IN_THE_WAY = frozenset({errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.EACCES, errno.EPERM})


MOVE_AWAY = "move it away, and `ablate run` trains the run again"


class BusyError(AblateError):
    """Another worker is training this run."""


class CurveWriter:
    """Appends lines to a run's curve and holds its lease until closed.

    Raises `BusyError` where another process holds it, `RecordError` where something that is no readable file stands in
    its place, and `OSError` where the folder or the disk takes no file.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = open_regular(path, "a+b")
        except OSError as error:
            if error.errno in _IN_THE_WAY and os.path.lexists(path):
                raise RecordError(f"{path}: {error.strerror}; {MOVE_AWAY}") from None
            raise
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

    def replace(self, content: IO[bytes]) -> None:
        """Take over the lines of the same run elsewhere. Raises `OSError` where the disk has no room for them."""
        self.rewind(0, 0)
        while block := content.read(BLOCK_BYTES):
            self._write(block)

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
        so a curve that no longer has the last line there is read from its start.

        A curve that cannot be read has no lines; `RunFolder.read_status` says why.
        """
        try:
            with open_regular(self.path) as file:
                file.seek(self._offset - len(self._last_line))
                if file.read(len(self._last_line)) != self._last_line:
                    file.seek(0)
                    self._offset, self._last_line = 0, b""
                block = file.read()
        except OSError:
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
    """Every whole line of a curve; an empty list where there is none, or it cannot be read."""
    return CurveReader(path).read()


def read_backwards(path: Path, key: str = "") -> Iterator[dict[str, Any]]:
    """The lines of a curve from its end, each step once, in bounded memory; only those that name `key`, if given.

    Nothing where there is no curve, or it cannot be read.
    """
    wanted, step = json.dumps(key).encode() if key else b"", math.inf
    try:
        file = open_regular(path)
    except OSError:
        return
    with file:
        for line in _lines_backwards(file):
            record = parse_line(line) if wanted in line else None
            if record is not None and record["step"] < step:
                step = record["step"]
                yield record


def _lines_backwards(file: BinaryIO) -> Iterator[bytes]:
    """The whole lines of a file from its end, without their ends; what follows the last one is left out."""
    place, rest, is_last = file.seek(0, os.SEEK_END), b"", True
    while place:
        n_bytes = min(BLOCK_BYTES, place)
        place = file.seek(place - n_bytes)
        rest, *lines = (file.read(n_bytes) + rest).split(b"\n")
        if lines and is_last:
            lines.pop()
            is_last = False
        yield from reversed(lines)
        if len(rest) > MAX_LINE_BYTES:
            rest = b"\0"  # which makes no record of the rest of the line either
    if not is_last:
        yield rest


def file_crc32(file: IO[bytes], n_bytes: int) -> int | None:
    """The CRC-32 of the first `n_bytes`; None where the file is shorter."""
    file.seek(0)
    crc32 = 0
    while n_bytes > 0 and (block := file.read(min(n_bytes, BLOCK_BYTES))):
        crc32, n_bytes = zlib.crc32(block, crc32), n_bytes - len(block)
    return None if n_bytes else crc32


def is_held(path: Path) -> bool:
    """Whether a process trains the run of this curve now."""
    try:
        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def parse_line(line: bytes) -> dict[str, Any] | None:
    """Return the record of one line; None if the line is torn or is not a record."""
    record = parse_object(line)
    if record is not None and isinstance(record.get("step"), int) and 0 <= record["step"] <= MAX_COUNT:
        return record
    return None


def parse_object(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object of one line; None if there is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):  # RecursionError: brackets within brackets
        return None
    return found if isinstance(found, dict) else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
