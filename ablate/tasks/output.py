"""`log.txt`: the output of a program, of bounded size. The beginning and the end are kept."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path

from ablate.files import check_regular

HEAD_BYTES = 2**22
TAIL_BYTES = 2**20
EVERY_S = 1.0  # how often the end is written while more output comes than the file takes
LAST_LINES = 20
LAST_BYTES = 4000
EARLIER = "log.before.txt"


class OutputLog:
    """Writes blocks of output. The output of an earlier attempt is kept as log.before.txt."""

    def __init__(self, path: Path) -> None:
        check_regular(path)
        if path.exists():
            path.replace(path.with_name(EARLIER))
        self._file = path.open("wb", buffering=0)
        self._n_head = self._n_bytes = 0
        self._tail: deque[bytes] = deque()
        self._n_tail = 0
        self._written_at = 0.0

    def write(self, block: bytes) -> None:
        self._n_bytes += len(block)
        self._keep(block)
        if self._n_head < HEAD_BYTES:
            part = block[: HEAD_BYTES - self._n_head]
            self._file.write(part)
            self._n_head += len(part)
        if self._n_bytes > self._n_head and time.monotonic() - self._written_at > EVERY_S:
            self._write_tail()

    def _keep(self, block: bytes) -> None:
        self._tail.append(block[-TAIL_BYTES:])
        self._n_tail += len(self._tail[-1])
        while self._n_tail - len(self._tail[0]) >= TAIL_BYTES:
            self._n_tail -= len(self._tail.popleft())

    def _write_tail(self) -> None:
        """Write the end of the output after the beginning, with a line about what is left out between them."""
        self._written_at = time.monotonic()
        tail = b"".join(self._tail)[-min(TAIL_BYTES, self._n_bytes - self._n_head) :]
        n_left_out = self._n_bytes - self._n_head - len(tail)
        self._file.seek(self._n_head)
        if n_left_out:
            self._file.write(f"\n... {n_left_out:,} bytes of output are left out here ...\n".encode())
        self._file.write(tail)
        self._file.truncate()

    @property
    def last_lines(self) -> str:
        """The last lines of the output, without empty ones."""
        text = b"".join(self._tail)[-LAST_BYTES:].decode(errors="replace").replace("\r", "\n")
        lines = [line.rstrip() for line in text.split("\n") if line.strip()]
        return "\n".join(lines[-LAST_LINES:])

    def close(self) -> None:
        if self._n_bytes > self._n_head:
            self._write_tail()
        self._file.close()


def tail_lines(path: Path, offset: int, limit: int) -> tuple[bytes, int]:
    """The whole lines of a growing file from `offset`, at most about `limit` bytes, and the offset behind them."""
    fd = os.open(path, os.O_RDONLY)
    try:
        block = os.pread(fd, limit, offset)
    finally:
        os.close(fd)
    end = block.rfind(b"\n") + 1
    if not end and len(block) == limit:
        end = limit  # a line without an end; the reader drops it
    return block[:end], offset + end
