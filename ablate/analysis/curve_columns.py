"""`curve.jsonl` as one array per key. pyarrow parses it block by block; each line is checked."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablate.analysis.checked_records import clean
from ablate.errors import RecordError
from ablate.files import open_regular
from ablate.tracking.curve import MOVE_AWAY, parse_object
from ablate.tracking.values import LARGEST, MAX_COUNT, is_number

Floats = NDArray[np.float64]

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
"""The keys of a line, besides the diagnostics of a variant."""

_BLOCK_BYTES = 2**24
_MAX_LINE_BYTES = 2**24
_SMALL_BYTES = 2**13
_DECODER = json.JSONDecoder(parse_int=float)  # Python refuses to read integers of thousands of digits
_COSTS, _LOSSES = ("tokens", "flops", "wall_s"), ("train_loss", "val_loss")
_TAKEN = frozenset({"run_id", "arm", "seed", "state"})  # columns that the tables of a study have of their own


@dataclass(frozen=True, eq=False)
class CurveColumns:
    """A curve as arrays, each [line] and nan where a line lacks the key. Steps strictly increase.

    `columns` always holds `CORE_COLUMNS`, and others only if they hold a number. `n_passed_over` counts the lines that
    are not records. `extent` is the length (bytes) and the CRC-32 of the file.
    """

    columns: Mapping[str, Floats]
    n_passed_over: int
    extent: tuple[int, int]


def read_columns(path: Path) -> CurveColumns:
    """Read a curve, without a last line that has no end: it is being written. A missing file has no lines.

    Each record has its step, and its costs and losses are numbers or null. The file is parsed block by block, so a long
    curve takes little more memory than its numbers. Raises `RecordError`, with the remedy, if the file cannot be read.
    """
    n_bytes = crc32 = n_lines = 0
    parts = [EMPTY_CURVE.columns]
    try:
        with open_regular(path) as file:
            rest = b""
            while content := file.read(_BLOCK_BYTES):
                n_bytes, crc32 = n_bytes + len(content), zlib.crc32(content, crc32)
                whole, end, torn = content.rpartition(b"\n")
                if not end:
                    rest = (
                        rest + content if len(rest) < _MAX_LINE_BYTES else b"\0"
                    )  # too long for a record, whatever follows
                    continue
                block, rest = rest + whole + end, torn
                columns, n = _parse(block)
                parts.append(columns)
                n_lines += n
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror or error}; {MOVE_AWAY}") from None
    names, values_cl = _join(parts)
    is_record = find_records(dict(zip(names, values_cl, strict=True)))
    n_passed_over = n_lines - int(is_record.sum())
    steps = np.where(is_record, values_cl[names.index("step")], -1.0)
    # A step counts if it is larger than all steps before it.
    is_new = steps > np.maximum.accumulate(np.concatenate([[-1.0], steps[:-1]]))
    if not is_new.all():
        values_cl = values_cl[:, is_new]
    values_cl[~(np.abs(values_cl) <= LARGEST)] = np.nan
    columns = {name: values for name, values in zip(names, values_cl, strict=True) if name not in _TAKEN}
    return CurveColumns(keep_known(columns), n_passed_over, (n_bytes, crc32))


def _join(parts: Sequence[Mapping[str, Floats]]) -> tuple[list[str], Floats]:
    """The names of a curve, and the values [column, line] of all blocks. A column that a block lacks is nan there."""
    names = list(dict.fromkeys(name for part in parts for name in part))
    values_cl = np.full((len(names), sum(part["step"].size for part in parts)), np.nan)
    end = 0
    for part in parts:
        start, end = end, end + part["step"].size
        for row, name in enumerate(names):
            if name in part:
                values_cl[row, start:end] = part[name]
    return names, values_cl


EMPTY_CURVE = CurveColumns({name: np.empty(0) for name in CORE_COLUMNS}, 0, (0, 0))


def keep_known(columns: Mapping[str, Floats]) -> dict[str, Floats]:
    """Drop the columns that hold no number, except `CORE_COLUMNS`."""
    return {name: values for name, values in columns.items() if name in CORE_COLUMNS or np.isfinite(values).any()}


def complete_columns(columns: Mapping[str, Floats], n_lines: int) -> dict[str, Floats]:
    """Add the missing `CORE_COLUMNS`, filled with nan."""
    return {name: columns.get(name, np.full(n_lines, np.nan)) for name in (*CORE_COLUMNS, *columns)}


def find_records(columns: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Tell for each line whether its step is valid, and its costs and losses are plausible or unknown."""
    steps, costs = columns["step"], np.stack([columns[name] for name in _COSTS])
    values = np.stack([*costs, *(columns[name] for name in _LOSSES)])
    is_step = (steps >= 0) & (steps <= MAX_COUNT) & (steps == np.floor(steps))
    is_wrong = (np.abs(values) > LARGEST).any(0) | ((costs != 0) & (costs < 1 / LARGEST)).any(0)
    is_record: NDArray[np.bool_] = is_step & ~is_wrong
    return is_record


def _parse(block: bytes) -> tuple[dict[str, Floats], int]:
    """Parse a block's lines, and count them. Short blocks parse faster line by line."""
    return (len(block) > _SMALL_BYTES and _parse_block(block)) or _parse_lines(block)


def _parse_block(block: bytes) -> tuple[dict[str, Floats], int] | None:
    """Parse all lines at once and count them. None if they have to be parsed one by one."""
    import pyarrow as pa
    import pyarrow.json as pa_json

    if b"NaN" in block or not (_is_flat(block) and _is_text(block)):  # it takes -NaN, which JSON's reader does not
        return None
    schema = pa.schema([(name, pa.float64()) for name in CORE_COLUMNS])
    try:
        table = pa_json.open_json(  # unlike `read_json`, it hands nothing to another thread
            pa.BufferReader(block),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=len(block)),
            parse_options=pa_json.ParseOptions(explicit_schema=schema),
        ).read_all()
        names = table.column_names
    except (pa.ArrowException, ValueError):  # ValueError: a name that is not UTF-8
        return None
    if clean(names) != names:
        return None
    numeric = [field.name for field in table.schema if field.type in (pa.float64(), pa.int64())]
    return {name: to_floats(table[name]) for name in numeric}, table.num_rows


def to_floats(column: Any) -> Floats:
    """Convert an Arrow column of numbers; null becomes nan.

    The buffers are read directly, because pyarrow's own conversions import pandas, which takes longer than the rest.
    """
    return np.concatenate([np.empty(0), *map(_read_chunk, column.chunks)])


def _read_chunk(chunk: Any) -> Floats:
    validity, data = chunk.buffers()
    kind = np.int64 if str(chunk.type) == "int64" else np.float64
    values = np.frombuffer(data, kind, len(chunk), chunk.offset * 8).astype(np.float64)
    if chunk.null_count:
        bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")
        values[bits[chunk.offset : chunk.offset + len(chunk)] == 0] = np.nan
    return values


def _is_flat(block: bytes) -> bool:
    """Check that no object holds another one: pyarrow's parser overflows the stack on deep nesting."""
    content = np.frombuffer(block, np.uint8)
    ends, braces = np.flatnonzero(content == ord("\n")), np.flatnonzero(content == ord("{"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    return ends.size > 0 and np.array_equal(braces, starts) and b"[" not in block


def _is_text(block: bytes) -> bool:
    """Check that it is UTF-8, which pyarrow's parser does not check in values."""
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parse_lines(block: bytes) -> tuple[dict[str, Floats], int]:
    """Parse the lines that are JSON objects, and count all lines that are not blank."""
    lines = [line for line in block.split(b"\n") if line.strip()]
    objects = [found for line in lines if (found := parse_object(line, _DECODER)) is not None]
    names = {name: clean(name) for name in dict.fromkeys(name for found in objects for name in found)}
    if any(name != cleaned for name, cleaned in names.items()):
        objects = [{names[name]: value for name, value in found.items()} for found in objects]
    columns = {
        name: np.array([_read_number(found.get(name)) for found in objects], np.float64) for name in names.values()
    }
    return complete_columns(columns, len(objects)), len(lines)


def _read_number(value: Any) -> float:
    """Null becomes nan, as NaN is. Infinity marks anything else that is not a number."""
    if isinstance(value, float):
        return value  # an infinite one too
    return np.nan if value is None else float(value) if is_number(value) else np.inf
