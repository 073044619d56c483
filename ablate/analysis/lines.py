"""`curve.jsonl` as arrays: one a key, checked line by line."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate.analysis.arrow import Floats, is_numeric, to_floats
from ablate.analysis.checked_records import clean
from ablate.errors import RecordError
from ablate.files import open_regular
from ablate.tracking.curve import MOVE_AWAY
from ablate.tracking.study_record import LARGEST, MAX_COUNT, is_number

CORE_COLUMNS = (
    "step",
    "tokens",
    "flops",
    "wall_s",
    "train_loss",
    "val_loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_s",
)
"""What each line of a curve may carry besides the diagnostics of a variant."""

_BLOCK_BYTES = 2**24
_MAX_LINE_BYTES = 2**24
_COSTS, _LOSSES = ("tokens", "flops", "wall_s"), ("train_loss", "val_loss")
_TAKEN = frozenset({"run_id", "arm", "seed", "state"})  # columns that the tables of a study have of their own


@dataclass(frozen=True, eq=False)
class CurveLines:
    """`columns` holds all of `CORE_COLUMNS`, each [line], nan where a line lacks the key; steps strictly increase.

    `n_passed_over` counts the lines that are no records; `extent` is the length (bytes) and CRC-32 of the file.
    """

    columns: Mapping[str, Floats]
    n_passed_over: int
    extent: tuple[int, int]


def read_lines(path: Path) -> CurveLines:
    """The lines of a curve, but for the last one where its end is missing: it is being written. None without a file.

    A record has a step, and its costs and losses are numbers or null. The file is parsed block by block, so a long
    curve takes little more memory than its numbers. Raises `RecordError`, with what to do, where it cannot be read.
    """
    n_bytes = crc32 = n_lines = 0
    parts = [_parse_lines(b"")[0]]
    try:
        with open_regular(path) as file:
            rest = b""
            while content := file.read(_BLOCK_BYTES):
                n_bytes, crc32 = n_bytes + len(content), zlib.crc32(content, crc32)
                whole, end, torn = content.rpartition(b"\n")
                if not end:
                    rest = rest + content if len(rest) < _MAX_LINE_BYTES else b"\0"  # no record, whatever follows
                    continue
                block, rest = rest + whole + end, torn
                columns, n = _parse_block(block) or _parse_lines(block)
                parts.append(columns)
                n_lines += n
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}; {MOVE_AWAY}") from None
    columns = _join(parts)
    is_record = find_records(columns)
    columns = {name: values[is_record] for name, values in columns.items() if name not in _TAKEN}
    columns = {name: np.where(np.abs(values) <= LARGEST, values, np.nan) for name, values in columns.items()}
    return CurveLines(_drop_repeats(columns), n_lines - int(is_record.sum()), (n_bytes, crc32))


def _join(parts: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    """The blocks of a curve as one; a column that only some of them have is nan in the others."""
    names = dict.fromkeys(name for part in parts for name in part)
    lengths = [part["step"].size for part in parts]
    return {
        name: np.concatenate([part.get(name, np.full(n, np.nan)) for part, n in zip(parts, lengths, strict=True)])
        for name in names
    }


NO_LINES = CurveLines({name: np.empty(0) for name in CORE_COLUMNS}, 0, (0, 0))


def complete_columns(columns: Mapping[str, Floats], n_lines: int) -> dict[str, Floats]:
    """The columns with all of `CORE_COLUMNS` among them."""
    return {name: columns.get(name, np.full(n_lines, np.nan)) for name in (*CORE_COLUMNS, *columns)}


def find_records(columns: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Whether each line has a step, and costs and losses that may have been measured or are not known."""
    steps = columns["step"]
    is_record: NDArray[np.bool_] = (steps >= 0) & (steps <= MAX_COUNT) & (steps == np.floor(steps))
    for name in (*_COSTS, *_LOSSES):
        is_record &= np.isnan(columns[name]) | (np.abs(columns[name]) <= LARGEST)
    for name in _COSTS:
        is_record &= np.isnan(columns[name]) | (columns[name] == 0) | (columns[name] >= 1 / LARGEST)
    return is_record


def _parse_block(block: bytes) -> tuple[dict[str, Floats], int] | None:
    """All lines at once, and their number, or None where one of them has to be looked at by itself."""
    import pyarrow as pa
    import pyarrow.json as pa_json

    if not _is_flat(block):
        return None
    schema = pa.schema([(name, pa.float64()) for name in CORE_COLUMNS])
    try:
        table = pa_json.read_json(
            pa.BufferReader(block),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=len(block)),
            parse_options=pa_json.ParseOptions(explicit_schema=schema),
        )
        names = table.column_names
    except (pa.ArrowException, ValueError):  # the latter: a name that is not UTF-8
        return None
    if clean(names) != names:
        return None
    numeric = [field.name for field in table.schema if is_numeric(field.type)]
    return {name: to_floats(table[name]) for name in numeric}, table.num_rows


def _is_flat(block: bytes) -> bool:
    """Whether each line is one object without another in it: pyarrow's parser overflows the stack on deep ones."""
    content = np.frombuffer(block, np.uint8)
    ends, braces = np.flatnonzero(content == ord("\n")), np.flatnonzero(content == ord("{"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    return ends.size > 0 and np.array_equal(braces, starts) and b"[" not in block


def _parse_lines(block: bytes) -> tuple[dict[str, Floats], int]:
    """The lines that are JSON objects, and the number of all that are not blank."""
    lines = [line for line in block.split(b"\n") if line.strip()]
    objects = [found for line in lines if (found := _parse_line(line)) is not None]
    names = dict.fromkeys(name for found in objects for name in found)
    columns = {name: np.array([found.get(name, np.nan) for found in objects], np.float64) for name in names}
    return complete_columns(columns, len(objects)), len(lines)


def _parse_line(line: bytes) -> dict[str, float] | None:
    """The numbers of an object: nan for null, infinity for what is no number."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {clean(name): _read_number(value) for name, value in found.items()}


def _read_number(value: Any) -> float:
    return np.nan if value is None else float(value) if is_number(value) else np.inf


def _drop_repeats(columns: dict[str, Floats]) -> dict[str, Floats]:
    """Keep each step once, in order: a line counts where its step passes every step before it."""
    steps = columns["step"]
    if steps.size < 2 or bool(np.all(np.diff(steps) > 0)):
        return columns
    is_new = np.concatenate([[True], steps[1:] > np.maximum.accumulate(steps)[:-1]])
    return {name: column[is_new] for name, column in columns.items()}
