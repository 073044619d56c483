"""Read columns of CSV, JSON Lines and Parquet files. Only the columns that are asked for are kept in memory."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from ablate.errors import RecordError
from ablate.imports.columns import Column, find_decimal, read_numbers, read_texts
from ablate.imports.log_files import LogFile, Notes

_LONGEST = 1 << 24  # bytes of a header: one of W&B names every run three times
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DELIMITERS = (",", ";", "\t")
_BLOCK = 1 << 22
_PARQUET = b"PAR1"
_MOST_LEAVES, _DEEPEST = 10_000, 8


@dataclass(frozen=True, eq=False)
class Header:
    """The names of all columns, each once, and what is needed to read a CSV file.

    `raw` are the names as written, and `n_skip` lines come before the rows.
    """

    names: tuple[str, ...]
    delimiter: str = ""
    encoding: str = ""
    n_skip: int = 0
    raw: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Table:
    """Some columns of a file as Arrow arrays by name, all of the same length, and the file's decimal mark."""

    arrays: Mapping[str, Any]
    n_rows: int
    decimal: str = "."

    def numbers(self, name: str) -> Column:
        return read_numbers(self.arrays[name], self.decimal)

    def texts(self, name: str) -> Any:
        return read_texts(self.arrays[name])


def read_header(file: LogFile) -> Header | None:
    """Read the names of a file's columns, once per file. None if it is not a table."""
    if "header" not in file.memory:
        file.memory["header"] = _find_header(file)
    found: Header | None = file.memory["header"]
    return found


def _find_header(file: LogFile) -> Header | None:
    if file.head.startswith(_PARQUET):
        with _explained(file.path), file.path.open("rb") as opened:
            return Header(tuple(pyarrow.parquet.read_schema(opened).names))
    if _is_json_lines(file.head):
        names: dict[str, None] = {}
        for row in _read_rows(file.path, None):
            names.update(dict.fromkeys(row))
        return Header(tuple(names))
    return _read_csv_header(file)


def read_table(file: LogFile, header: Header, names: Collection[str], notes: Notes) -> Table:
    """Read the columns with these names. Raises `RecordError`, naming the file, if it is damaged."""
    wanted = [name for name in header.names if name in names]
    with _explained(file.path):
        if header.delimiter:
            return _read_csv(file, header, wanted, notes)
        if file.head.startswith(_PARQUET):
            with file.path.open("rb") as opened:
                found = pyarrow.parquet.read_table(opened, columns=wanted)
            return Table({name: found.column(name) for name in wanted}, found.num_rows)
        rows = _read_rows(file.path, notes)
        cells: dict[str, list[Any]] = {name: [] for name in wanted}
        n_rows = 0
        for row in rows:
            n_rows += 1
            for name in wanted:
                cells[name].append(row.get(name))
        return Table({name: to_arrow(column) for name, column in cells.items()}, n_rows)


def _read_csv_header(file: LogFile) -> Header | None:
    encoding = next((name for bom, name in _BOMS if file.head.startswith(bom)), "utf-8")
    if b"\0" in file.head and encoding != "utf-16":
        return None
    lines = []
    with suppress(UnicodeDecodeError), file.path.open(encoding=encoding, newline="") as text:
        lines = [text.readline(_LONGEST), text.readline(_LONGEST)]
    if not lines:  # Excel writes the code page of its language
        encoding = "latin-1"
        with file.path.open(encoding=encoding, newline="") as text:
            lines = [text.readline(_LONGEST), text.readline(_LONGEST)]
    stated = re.fullmatch(r"sep=(.)", lines[0].strip())  # Excel's own first line
    line, n_skip = (lines[1], 2) if stated else (lines[0], 1)
    splits = {mark: next(csv.reader([line], delimiter=mark), []) for mark in _DELIMITERS}
    delimiter = stated[1] if stated else max(splits, key=lambda mark: len(splits[mark]))
    raw = next(csv.reader([line], delimiter=delimiter), [])
    if len(raw) < 2:
        return None
    names: dict[str, None] = {}
    for place, name in enumerate(raw, 1):
        name = name.strip() or f"column {place}"
        n = sum(known == name or known.startswith(f"{name} (") for known in names)
        names[f"{name} ({n + 1})" if name in names else name] = None
    return Header(tuple(names), delimiter, encoding, n_skip, tuple(raw))


def _read_csv(file: LogFile, header: Header, names: list[str], notes: Notes) -> Table:
    n_bad = 0

    def skip(_: Any) -> str:
        nonlocal n_bad
        n_bad += 1
        return "skip"

    if not names:
        return Table({}, 0)
    with file.path.open("rb") as opened:  # Arrow cannot open a name that is not UTF-8
        found = pyarrow.csv.read_csv(
            opened,
            pyarrow.csv.ReadOptions(
                column_names=list(header.names), skip_rows=header.n_skip, encoding=header.encoding, block_size=_BLOCK
            ),
            pyarrow.csv.ParseOptions(delimiter=header.delimiter, newlines_in_values=True, invalid_row_handler=skip),
            pyarrow.csv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    raw = dict(zip(header.names, header.raw, strict=True))
    is_header = pc.equal(found.column(names[0]), raw[names[0]])  # appended again by a program that was restarted
    for name in names[1:]:
        is_header = pc.and_(is_header, pc.equal(found.column(name), raw[name]))
    if pc.any(is_header).as_py():
        found = found.filter(pc.invert(is_header))
        notes.add(file.path, "repeats its header between the rows")
    if n_bad:
        notes.add(file.path, f"left out {n_bad:,} {'row' if n_bad == 1 else 'rows'} with another number of columns")
    arrays = {name: found.column(name) for name in names}
    decimal = find_decimal(list(arrays.values()), header.delimiter)
    if decimal == ",":
        notes.add(file.path, "read with a decimal comma")
    return Table(arrays, found.num_rows, decimal)


def _is_json_lines(head: bytes) -> bool:
    line = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0]
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _read_rows(path: Path, notes: Notes | None) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file, with the keys of nested ones joined by dots."""
    n_bad = 0
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield flatten(row)
            else:
                n_bad += 1
    if n_bad and notes:
        notes.add(path, f"left out {n_bad:,} {'line' if n_bad == 1 else 'lines'} without a JSON object")


def flatten(tree: Mapping[Any, Any]) -> dict[str, Any]:
    """List the leaves of nested mappings, with their keys joined by dots.

    Lists, deeper levels and more leaves than any config has are left out: a small file can unfold to billions.
    """
    found: dict[str, Any] = {}

    def visit(node: Mapping[Any, Any], prefix: str, depth: int) -> None:
        for key, value in node.items():
            if len(found) >= _MOST_LEAVES:
                return
            if isinstance(value, Mapping):
                if depth < _DEEPEST:
                    visit(value, f"{prefix}{key}.", depth + 1)
            elif not isinstance(value, list | tuple | set):
                found[f"{prefix}{key}"] = value

    visit(tree, "", 0)
    return found


def to_arrow(cells: list[Any]) -> Any:
    if all(cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool)) for cell in cells):
        with suppress(OverflowError):
            return pa.chunked_array([pa.array([None if c is None else float(c) for c in cells], pa.float64())])
    return pa.chunked_array([pa.array([None if cell is None else str(cell) for cell in cells], pa.string())])


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn errors of Arrow and of decoding into one message that names the file."""
    try:
        yield
    except (pa.ArrowException, UnicodeError) as error:
        first = next(iter(str(error).splitlines()), "")
        raise RecordError(f"{path}: this file is damaged ({first[:200]})") from None
