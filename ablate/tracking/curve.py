"""`curve.jsonl`: one appended line per logged step, each step at most once.

The file is also the run's lease. The process that trains the run holds an exclusive lock on it, and the kernel releases
the lock when the process dies in any way. So two drivers never train the same run at the same time.

`analysis/curve_columns.py` reads whole curves as arrays. The readers here follow a growing curve, or read its end.
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
from ablate.files import file_crc32, open_regular
from ablate.tracking.values import MAX_COUNT

BLOCK_BYTES = 2**18
MAX_LINE_BYTES = 2**20  # a line has a few hundred bytes; a longer one is not a record and is not held in memory
# Opening fails with these if the file itself is in the way, not its folder or the disk.
_DECODER = json.JSONDecoder()
_IN_THE_WAY = frozenset({errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.EACCES, errno.EPERM})


MOVE_AWAY = "move it away, and `ablate run` trains the run again"


class BusyError(AblateError):
    """Another worker is training this run."""


class CurveWriter:
    """Appends lines to a run's curve, and holds the run's lease until it is closed.

    Raises `BusyError` if another process holds the lease, `RecordError` if the path is not a readable file, and
    `OSError` if the folder or the disk does not accept a file.
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
        """Truncate the file to `n_bytes`. Returns False and changes nothing if these bytes have another checksum."""
        if file_crc32(self._file, n_bytes) != crc32:
            return False
        self._file.truncate(n_bytes)
        self.n_bytes, self.crc32 = n_bytes, crc32
        return True

    def replace(self, content: IO[bytes]) -> None:
        """Replace all lines by those of the same run elsewhere. Raises `OSError` if the disk is full."""
        self.rewind(0, 0)
        while block := content.read(BLOCK_BYTES):
            self.write(block)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line. NaN and infinity become null, because JSON cannot express them.

        Raises `OSError` if the disk has no room for the whole line.
        """
        clean = {key: _finite(value) for key, value in record.items()}
        line = json.dumps(clean, separators=(",", ":")).encode() + b"\n"
        self.write(line)

    def write(self, content: bytes) -> None:
        """Append whole lines. Raises `OSError` if the disk has no room for all of them."""
        if self._file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)
        self.n_bytes, self.crc32 = self.n_bytes + len(content), zlib.crc32(content, self.crc32)

    def fileno(self) -> int:
        """The descriptor that holds the lease. A process that inherits it keeps the lease."""
        return self._file.fileno()

    def sync(self) -> None:
        """Wait for the disk, so that the lines written so far survive a crash of the machine."""
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
    """Follows a curve that is still being written. Each `read` returns the lines since the last one."""

    def __init__(self, path: Path) -> None:
        self.path, self.last_step = path, -1
        self._offset, self._last_line = 0, b""  # the line that ended there

    def read(self) -> list[dict[str, Any]]:
        """Read the complete lines beyond the last step seen.

        No line is repeated or lost if the curve was cut back and grew again: a curve that no longer has the last line
        at its place is read from the start. A curve that cannot be read has no lines; `RunFolder.read_status` says why.
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
    """Read every whole line of a curve; an empty list if it is missing or cannot be read."""
    return CurveReader(path).read()


def read_backwards(path: Path, key: str = "") -> Iterator[dict[str, Any]]:
    """Yield the lines of a curve from its end, each step once, in bounded memory; only those with `key`, if given.

    A curve that is missing or cannot be read has no lines.
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
    """Yield the whole lines of a file from its end, without line feeds. A torn last line is left out."""
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
            rest = b"\0"  # so the rest of the line is not a record either
    if not is_last:
        yield rest


def is_held(path: Path) -> bool:
    """Tell whether a process is training the run of this curve now."""
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


def parse_object(line: bytes, decoder: json.JSONDecoder = _DECODER) -> dict[str, Any] | None:
    """Return the JSON object of one line; None for anything else. Bytes are decoded as `json.loads` does."""
    try:
        found = decoder.decode(line.decode(json.detect_encoding(line), "surrogatepass"))
    except (ValueError, RecursionError):  # RecursionError: brackets within brackets
        return None
    return found if isinstance(found, dict) else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
