"""Pairs of texts from files: tab-separated lines, JSON Lines and Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from ablate.data.files import ARCHIVES, Kind, check_text, decompressed, find_files, reading
from ablate.data.sources import load_source
from ablate.data.sources.base import Documents
from ablate.data.tokenizers import Tokenizer, load_tokenizer
from ablate.errors import DataError, suggest
from ablate.formatting import quote
from ablate.study.data_schema import DataConfig
from ablate.tasks.synthetic_pairs import FIRST_SYMBOL, PADDING, Ids

Format = Literal["tsv", "jsonl", "parquet"]
Texts = tuple[str, str]
Tokens = tuple[int, ...]
Stamp = tuple[Path, int, int]  # a file, when it was changed, and its size

FORMAT = 1
"""Raise this number when the same files would give other pairs."""

SHARES = 1 << 32


@dataclass(frozen=True)
class PairFiles:
    """Where pairs of texts are, and how they become tokens. `keys` name source and target; TSV has two columns."""

    format: Format
    path: tuple[str, ...]
    validation_path: tuple[str, ...]
    validation_fraction: float
    keys: tuple[str, str]
    tokenizer: str

    def find(self, base: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        """Find the files of both splits. Raises `DataError` as `find_files` does."""
        source = None if self.format == "tsv" else load_source(self.format)
        check = source.kind.check if isinstance(source, Documents) else check_text
        kind = Kind(self.format, check, _ENDINGS[self.format])
        train = find_files(self.path, base, "task.path", kind)
        return train, find_files(self.validation_path, base, "task.validation_path", kind)


@dataclass(frozen=True)
class TokenPairs:
    """Pairs of tokens, from FIRST_SYMBOL on, in two splits. `digest` identifies the pairs of each split."""

    train: tuple[tuple[Tokens, Tokens], ...]
    validation: tuple[tuple[Tokens, Tokens], ...]
    tokenizer: Tokenizer
    digests: tuple[str, str]

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest source, and of the longest target."""
        pairs = (*self.train, *self.validation)
        return max(len(source) for source, _ in pairs), max(len(target) for _, target in pairs)


def read_pairs(files: PairFiles, base: Path) -> TokenPairs:
    """Read and tokenize all pairs. Without validation files, a hash of each source decides its split.

    Raises `DataError`, naming file and line, for what cannot be read, and for a split without pairs.
    """
    train, validation = files.find(base)
    return _read(files, base, tuple(map(stamp, train)), tuple(map(stamp, validation)))


def stamp(path: Path) -> Stamp:
    """Tell when a file has changed, so that no old content is used."""
    status = path.stat()
    return path, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=8)
def _read(files: PairFiles, base: Path, *stamps: tuple[Stamp, ...]) -> TokenPairs:
    tokenizer = load_tokenizer(DataConfig(source="text", path=("-",), tokenizer=files.tokenizer), base)
    train, validation = ([p for path, *_ in part for p in _READERS[files.format](path, files.keys)] for part in stamps)
    if not files.validation_path:
        limit = files.validation_fraction * SHARES
        held_out = [_share(source) < limit for source, _ in train]
        validation = [pair for pair, is_out in zip(train, held_out, strict=True) if is_out]
        train = [pair for pair, is_out in zip(train, held_out, strict=True) if not is_out]
    for name, pairs in (("training", train), ("validation", validation)):
        if not pairs:
            raise DataError(f"task.path: the {name} split has no pairs")
    digests = _digest(train, tokenizer), _digest(validation, tokenizer)
    return TokenPairs(_encode(train, tokenizer), _encode(validation, tokenizer), tokenizer, digests)


def fill_up(pairs: Sequence[tuple[Tokens, Tokens]]) -> tuple[Ids, Ids]:
    """Sources and targets as two arrays, filled up with PADDING."""
    found = []
    for sequences in zip(*pairs, strict=True):
        ids = np.full((len(pairs), max(1, *map(len, sequences))), PADDING)
        for row, tokens in zip(ids, sequences, strict=True):
            row[: len(tokens)] = tokens
        found.append(ids)
    return found[0], found[1]


def _encode(pairs: Sequence[Texts], tokenizer: Tokenizer) -> tuple[tuple[Tokens, Tokens], ...]:
    def encode(text: str) -> Tokens:
        return tuple((tokenizer.encode(text).astype(int) + FIRST_SYMBOL).tolist())

    return tuple((encode(source), encode(target)) for source, target in pairs)


def _digest(pairs: Sequence[Texts], tokenizer: Tokenizer) -> str:
    content = hashlib.sha256(json.dumps([FORMAT, tokenizer.identity]).encode())
    for pair in pairs:
        content.update(json.dumps(pair).encode())
    return content.hexdigest()


def _share(text: str) -> int:
    """Draw a number below SHARES from a text. Surrogates that are no character count too."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:4], "big")


def _read_lines(path: Path) -> Iterator[tuple[int, str]]:
    with decompressed(path) as (stream, _):
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}: line {number:,}: is not UTF-8 (byte {error.start + 1})") from None


def _read_tsv(path: Path, keys: tuple[str, str]) -> Iterator[Texts]:  # noqa: ARG001 - columns have no names
    for number, line in _read_lines(path):
        columns = line.split("\t")
        if len(columns) != 2:
            n = f"{len(columns)} column{'s' * (len(columns) != 1)}"
            raise DataError(f"{path}: line {number:,}: has {n}, where a source, a tab and a target are expected")
        yield columns[0], columns[1]


def _read_jsonl(path: Path, keys: tuple[str, str]) -> Iterator[Texts]:
    for number, line in _read_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number:,}: is not JSON: {error}: {quote(line, 60)}") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}: line {number:,}: is not a JSON object: {quote(record, 60)}")
        yield _take(record, keys, path, f"line {number:,}")


def _read_parquet(path: Path, keys: tuple[str, str]) -> Iterator[Texts]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path):
        try:
            table = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: is not a Parquet file: {error}") from None
        for key in keys:
            if key not in table.schema_arrow.names:
                raise DataError(f"{path}: there is no column {key!r}{suggest(key, table.schema_arrow.names)}")
        row = 0
        for batch in table.iter_batches(columns=list(dict.fromkeys(keys))):
            for record in batch.to_pylist():
                row += 1
                yield _take(record, keys, path, f"row {row:,}")


def _take(record: Mapping[str, object], keys: tuple[str, str], path: Path, place: str) -> Texts:
    found = []
    for key in keys:
        if key not in record:
            raise DataError(f"{path}: {place}: there is no key {key!r}{suggest(key, record)}")
        value = record[key]
        if not isinstance(value, str):
            raise DataError(f"{path}: {place}: {key!r} must be text, got {quote(value, 60)}")
        found.append(value)
    return found[0], found[1]


_READERS: Mapping[Format, Callable[[Path, tuple[str, str]], Iterator[Texts]]] = {
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}
_NAMES: Mapping[Format, tuple[str, ...]] = {"tsv": (".tsv", ".txt"), "jsonl": (".jsonl", ".ndjson", ".json")}
_ENDINGS: Mapping[Format, tuple[str, ...]] = {
    **{name: tuple(end + a for a in ("", *ARCHIVES) for end in ends) for name, ends in _NAMES.items()},
    "parquet": (".parquet", ".pq"),
}
