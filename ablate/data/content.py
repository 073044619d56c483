"""Tell text from other content by its bytes, because a file name says little."""

from __future__ import annotations

import json
import pickletools
import re
import tarfile
from typing import IO

HEAD_BYTES = 1 << 16
RECORD_BYTES = 8 << 20  # searched for two lines of JSON
NUL_BYTES = 8000  # searched for NUL bytes at the beginning, as git does

LONG_STRING = 40  # characters, on average: texts are longer, and settings shorter
OLD_PICKLE_CODES = 20  # searched for the first number
_BEFORE_JSON = re.compile(rb"\A(?:\xef\xbb\xbf)?(?:[\s\x1e]|(?:#|//)[^\n]*\n)*")
_BETWEEN_RECORDS = " \t\r\n,\x1e"
_JSON_STRING = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)', re.DOTALL)
_BETWEEN_STRINGS = re.compile(r"[\s\x1e\[\]{},:0-9eE+.truefalsn-]*")

MOST_CONTROLS = 0.01  # share of a block: compressed data has 10 %, and text almost none
FEW_CONTROLS = 8
_CONTROLS = bytes(
    [*range(7), *range(14, 27), *range(28, 32), 127]
)  # ESC, BS and FF occur in terminal logs and listings

EXTRACT = "extract the text into a .txt file"
DECOMPRESS = "decompress it first"
TO_UTF_8 = "convert it to UTF-8"
AS_RECORDS = f"{EXTRACT}, or write one object per line for data.source: jsonl"
AS_PARQUET = "use data.source: parquet"
AS_DATASET = (
    "use data.source: huggingface for a folder written by save_to_disk, or convert the file to Parquet or JSON Lines"
)

SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b\x08", "gzip", "give it the suffix .gz"),
    *((b"BZh%d1AY&SY" % level, "bzip2", "give it the suffix .bz2") for level in range(1, 10)),
    (b"\xfd7zXZ\x00", "xz", "give it the suffix .xz"),
    (b"\x28\xb5\x2f\xfd", "zstandard", "give it the suffix .zst"),
    (b"\x04\x22\x4d\x18", "lz4", DECOMPRESS),
    (b"LZIP\x01", "lzip", DECOMPRESS),
    (b"\xff\x06\x00\x00sNaPpY", "snappy", DECOMPRESS),
    (b"PK\x03\x04", "zip (or .docx, .xlsx, .npz, .pt)", EXTRACT),
    (b"PK\x05\x06", "zip", EXTRACT),
    (b"7z\xbc\xaf\x27\x1c", "7z", EXTRACT),
    (b"Rar!\x1a\x07", "rar", EXTRACT),
    (b"PAR1\x15", "Parquet", AS_PARQUET),
    (b"ARROW1\x00\x00", "Arrow", AS_DATASET),
    (b"FEA1\x00", "Feather", EXTRACT),
    (b"Obj\x01", "Avro", EXTRACT),
    (b"\x93NUMPY", "NumPy .npy", EXTRACT),
    (b"\x80\x04\x95", "pickle", EXTRACT),
    (b"\x80\x05\x95", "pickle", EXTRACT),
    (b"(lp0\n", "pickle", EXTRACT),
    (b"(dp0\n", "pickle", EXTRACT),
    (b"ccopy_reg\n", "pickle", EXTRACT),
    (b"\x89HDF\r\n\x1a\n", "HDF5", EXTRACT),
    (b"SQLite format 3\x00", "SQLite", EXTRACT),
    (b"%PDF-", "PDF", EXTRACT),
    (b"{\\rtf", "RTF", EXTRACT),
    (b"%!PS-", "PostScript", EXTRACT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "old Office (.doc, .xls)", EXTRACT),
    (b"WARC/1.", "WARC", EXTRACT),
    (b"\x89PNG\r\n\x1a\n", "PNG", EXTRACT),
    (b"\xff\xd8\xff", "JPEG", EXTRACT),
    (b"GIF87a", "GIF", EXTRACT),
    (b"GIF89a", "GIF", EXTRACT),
    (b"\x7fELF", "ELF program", EXTRACT),
    (b"version https://git-lfs.github.com/spec/", "Git LFS pointer", "fetch the file itself: git lfs pull"),
)
"""First bytes, the format that they indicate, and what to do about it."""

MARKS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x9d", "compress (.Z)", DECOMPRESS),
    (b"\xff\xff\xff\xff", "Arrow stream", AS_DATASET),
    (b"\x80\x02", "pickle", EXTRACT),
    (b"\x80\x03", "pickle", EXTRACT),
    (b"\x80\x04", "pickle", EXTRACT),
    (b"\x80\x05", "pickle", EXTRACT),
    (b"\xff\xfe\x00\x00", "UTF-32", TO_UTF_8),
    (b"\x00\x00\xfe\xff", "UTF-32", TO_UTF_8),
    (b"\xff\xfe", "UTF-16", TO_UTF_8),
    (b"\xfe\xff", "UTF-16", TO_UTF_8),
)
"""The same for first bytes that are short or plain enough to begin a file of tokens."""


class ContentError(ValueError):
    """The content of a file cannot be used. The message follows the file's name."""


def recognize(head: bytes, *, may_be_tokens: bool = False) -> tuple[str, str] | None:
    """The format that the first bytes of a file indicate, and what to do about it.

    None for text, and for tokens where the file may hold tokens.
    """
    for signature, name, advice in SIGNATURES if may_be_tokens else (*SIGNATURES, *MARKS):
        if head.startswith(signature):
            return name, advice
    if not may_be_tokens and _is_old_pickle(head):
        return "pickle", EXTRACT
    return ("tar", EXTRACT) if _is_tar(head) else None


def check_head(stream: IO[bytes]) -> None:
    """Raise `ContentError` where the beginning of a decompressed file is not text, or is JSON that wraps the text."""
    head = stream.read(HEAD_BYTES)
    if known := recognize(head):
        raise ContentError(f"is {known[0]} data, not text: {known[1]}")
    if _BEFORE_JSON.sub(b"", head, count=1)[:1] in (b"{", b"[", b'"'):
        head += stream.read(RECORD_BYTES)
        if (advice := _find_records(_BEFORE_JSON.sub(b"", head, count=1).decode(errors="replace"))) is not None:
            raise ContentError(f"is JSON, so the model would learn its markup too: {advice}")
    if 0 in head[:NUL_BYTES]:
        raise ContentError("contains NUL bytes, so it is binary data or UTF-16, not text")


class CheckedStream:
    """A stream of text. Reading raises `ContentError` where a block has more control characters than text has."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        n_controls = len(block) - len(block.translate(None, _CONTROLS))
        if n_controls > max(FEW_CONTROLS, MOST_CONTROLS * len(block)):
            raise ContentError(
                f"contains {n_controls:,} control characters in {len(block):,} bytes, so it is binary data, not text"
            )
        return block


def _is_tar(head: bytes) -> bool:
    """Tell if a tar archive begins here. Its first header has a checksum, even in formats before POSIX."""
    try:
        return bool(tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape"))
    except tarfile.HeaderError:
        return False


def _is_old_pickle(head: bytes) -> bool:
    """Tell if a pickle of protocol 0 begins here. It is printable, and its first value is numbered: `p0`."""
    try:
        for index, (code, _, _) in enumerate(pickletools.genops(head)):
            if code.name == "PUT":
                return True
            if index == OLD_PICKLE_CODES:
                return False
    except ValueError:  # not a code, or a value that is longer than the head, in which line ends are escaped
        return head.startswith((b"V", b"(V", b"(lV")) and b"\n" not in head and b"\\u000a" in head
    return False


def _wraps_text(text: str) -> bool:
    """Tell if this is JSON, possibly cut off, that consists mostly of long strings."""
    lengths = [len(string) - 2 for string in _JSON_STRING.findall(text)]
    if not lengths or 2 * sum(lengths) < len(text) or sum(lengths) < LONG_STRING * len(lengths):
        return False
    if text.startswith('"') and "\\" not in text:
        return False  # a dialogue, each line of which is quoted
    return _BETWEEN_STRINGS.fullmatch(_JSON_STRING.sub("", text)) is not None


def _find_records(text: str) -> str | None:
    """What to do about JSON Lines, or an array of objects, naming the key with the text. None for other texts.

    A single value, such as an object of settings, counts as text unless most of it is one string or long strings.
    """
    is_array = text.startswith("[")
    inner = text[is_array:].lstrip()
    try:
        record, end = json.JSONDecoder().raw_decode(inner)
        rest = inner[end:].lstrip(_BETWEEN_RECORDS)
        strings = {key: value for key, value in record.items() if isinstance(value, str)}
        key = "text" if "text" in strings else max(strings, key=lambda key: len(strings[key]), default=None)
        if is_array:
            found = key is not None and inner[end:].lstrip()[:1] in (",", "]")
        elif rest:
            found = isinstance(json.JSONDecoder().raw_decode(rest)[0], dict)
        else:
            found = key is not None and 2 * len(strings[key]) > end
    except (ValueError, RecursionError, AttributeError):
        key, rest, found = None, "", False
    if not found:
        return AS_RECORDS if _wraps_text(text) else None
    if key is None:
        return EXTRACT
    if rest and not is_array:
        return f"use data.source: jsonl with data.text_key: {key} (or another key that holds the text)"
    return f"extract the text (its key {key!r}) into a .txt file, or write one object per line for data.source: jsonl"
