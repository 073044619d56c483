"""JSON Lines: one object per line, one of whose keys holds the text of a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ablate.data.content import recognize
from ablate.data.files import ARCHIVES, Kind, check_suffix, decoding_of, decompressed
from ablate.data.sources import base
from ablate.data.sources.base import Documents, Span, key_of, refuse_key, refuse_value
from ablate.data.splits import File
from ablate.errors import DataError
from ablate.formatting import quote
from ablate.study.data_schema import DataConfig

LONGEST_LINE = 1 << 28
_NAMES = (".jsonl", ".ndjson", ".json")
_BOM = b"\xef\xbb\xbf"


def _check_file(path: Path) -> None:
    check_suffix(path)
    with decompressed(path) as (stream, _):
        head = stream.read(512)
        if known := recognize(head):
            raise DataError(f"{path}: is {known[0]} data, not JSON Lines: {known[1]}")
        if head.removeprefix(_BOM).lstrip()[:1] == b"[":
            raise DataError(f"{path}: is a JSON array; write one object per line instead, as in {{'text': '...'}}")


class JsonLinesSource(Documents):
    """Spans are ranges of bytes: a line belongs to the range in which it begins. Compressed files are not divided."""

    summary = f"JSON Lines with the text of each document under text_key ({', '.join(ARCHIVES)} are decompressed)"
    kind = Kind(
        f"JSON Lines, {', '.join(ARCHIVES)}",
        _check_file,
        endings=tuple(name + suffix for suffix in ("", *ARCHIVES) for name in _NAMES),
    )

    def check_key(self, file: File, config: DataConfig) -> None:
        """Read the first document; `prepare` reads the others."""
        next(self.documents(Span(file, 0, file.stamp[1], file.stamp[1]), key_of(config)), None)

    def cut(self, file: File, config: DataConfig) -> Iterator[tuple[int, int, int]]:
        if decoding_of(file.path):
            yield from super().cut(file, config)
            return
        size = file.stamp[1]
        for start in range(0, size, base.PIECE_BYTES):
            stop = min(start + base.PIECE_BYTES, size)
            yield start, stop, stop - start

    def documents(self, span: Span, key: str) -> Iterator[tuple[str, float]]:
        path = span.file.path
        with decompressed(path) as (stream, position):
            is_packed = decoding_of(path) is not None
            place = 0
            if span.start and not is_packed:
                stream.seek(span.start - 1)
                place = span.start - 1 + len(_read_line(stream, path))
            n_lines = 0
            while (is_packed or place < span.stop) and (line := _read_line(stream, path)):
                place += len(line)
                n_lines += 1
                if not line.isspace():
                    try:
                        text = _find_text(line.removeprefix(_BOM).rstrip(b"\r\n"), key)
                    except _LineError as error:
                        number = n_lines + (0 if is_packed else _count_lines(path, span.start))
                        raise error.locate(path, number, key) from None
                    done = position() / max(span.size, 1) if is_packed else (place - span.start) / span.size
                    yield text, min(done, 1.0)


class _LineError(Exception):
    """What is wrong with a line, whose number is not known yet."""

    def __init__(self, message: str = "", record: dict[str, Any] | None = None) -> None:
        self.message, self.record = message, record

    def locate(self, path: Path, number: int, key: str) -> DataError:
        if self.record is None:
            return DataError(f"{path}: line {number:,}: {self.message}")
        if key in self.record:
            return refuse_value(path, f"line {number:,}", key, self.record[key])
        return refuse_key(path, f"line {number:,} has no key", key, list(self.record))


def _find_text(line: bytes, key: str) -> str:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise _LineError(f"is not UTF-8 (byte {line[error.start]:#04x} in column {error.start + 1})") from None
    except json.JSONDecodeError as error:
        raise _LineError(f"is not JSON: {error.msg} in column {error.colno}: {quote(line.decode(), 60)}") from None
    except (ValueError, RecursionError) as error:
        raise _LineError(f"is JSON that cannot be read: {error}") from None
    if not isinstance(record, dict):
        raise _LineError(f"is not a JSON object: {quote(record, 60)}")
    text = record.get(key)
    if not isinstance(text, str):
        raise _LineError(record=record)
    return text


def _read_line(stream: IO[bytes], path: Path) -> bytes:
    line = stream.readline(LONGEST_LINE)
    if len(line) == LONGEST_LINE:
        raise DataError(f"{path}: has a line of more than {LONGEST_LINE:,} bytes, so it is not JSON Lines")
    return line


def _count_lines(path: Path, stop: int) -> int:
    """The number of lines that begin before the byte `stop`."""
    n_lines = 0
    with path.open("rb") as file:
        left = stop - 1
        while left > 0 and (block := file.read(min(left, 1 << 20))):
            n_lines += block.count(b"\n")
            left -= len(block)
    return n_lines + bool(stop)
