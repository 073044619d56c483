"""Parquet files, one of whose columns holds the texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ablate.data.content import recognize
from ablate.data.files import Kind, reading
from ablate.data.sources import base
from ablate.data.sources.base import Documents, Span, key_of, refuse_key, refuse_value
from ablate.data.splits import File
from ablate.errors import DataError
from ablate.study.data_schema import DataConfig

ROWS = 256
"""Rows that are decoded at a time, so that a large row group does not have to fit into memory."""


def _check_file(path: Path) -> None:
    with reading(path), path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"PAR1"):
        return
    known = recognize(head)
    if known is None and head.lstrip()[:1] == b"{":
        known = "JSON", "use data.source: jsonl"
    what = f"is {known[0]} data, not Parquet: {known[1]}" if known else "is not a Parquet file"
    raise DataError(f"{path}: {what}")


class ParquetSource(Documents):
    """Spans are ranges of row groups."""

    summary = "Parquet files with the text of each document in the column text_key"
    kind = Kind("Parquet", _check_file, endings=(".parquet", ".pq"))

    def check_key(self, file: File, config: DataConfig) -> None:
        with _open(file.path) as table:
            check_column(file.path, table.schema_arrow, key_of(config))

    def cut(self, file: File, config: DataConfig) -> Iterator[tuple[int, int, int]]:
        with _open(file.path) as table:
            meta = table.metadata
            n_columns = meta.num_columns
            place = next(i for i in range(n_columns) if meta.schema.column(i).path == key_of(config))
            start = size = 0
            for i in range(meta.num_row_groups):
                size += meta.row_group(i).column(place).total_uncompressed_size
                if size >= base.PIECE_BYTES or i == meta.num_row_groups - 1:
                    yield start, i + 1, size
                    start, size = i + 1, 0

    def documents(self, span: Span, key: str) -> Iterator[tuple[str, float]]:
        path = span.file.path
        with _open(path) as table:
            sizes = [table.metadata.row_group(i).num_rows for i in range(span.stop)]
            first, n_rows = sum(sizes[: span.start]), max(sum(sizes[span.start :]), 1)
            done = 0
            groups = list(range(span.start, span.stop))
            for batch in table.iter_batches(ROWS, groups, columns=[key], use_threads=False):
                for text in texts_of(batch.column(0), path, key, first + done):
                    done += 1
                    yield text, done / n_rows


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    with reading(path), pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as table:
        yield table


def check_column(path: Path, schema: Any, key: str) -> None:
    """Raise `DataError` if the schema has no column `key`, or if the column does not hold strings."""
    if key not in schema.names:
        raise refuse_key(path, "there is no column", key, schema.names)
    kind = schema.field(key).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise DataError(f"data.text_key: {path}: the column {key!r} holds {kind}, not strings")


def texts_of(column: Any, path: Path, key: str, first: int) -> Iterator[str]:
    """The texts of a column whose first row has the number `first`, from 0. Raises `DataError` for a null."""
    for i, value in enumerate(column):
        try:
            text = value.as_py()
        except UnicodeDecodeError:
            raise DataError(f"{path}: row {first + i:,}: its {key!r} is not UTF-8") from None
        if text is None:
            raise refuse_value(path, f"row {first + i:,}", key, None)
        yield text
