"""The columns of foreign tables as numbers: what counts as a number, as missing, and as not a number.

This is the one place that decides what a cell of a log means. Every reader of logs uses it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ablate.errors import RecordError
from ablate.imports.logged_run import Floats, History

Bools = NDArray[np.bool_]

FILLED = 1 / 3
"""The share of nan between the first and the last number of a column from which nan is a filler for "not logged"."""

_MISSING = frozenset({"", "none", "null", "na", "n/a", "<na>", "-"})
_WORDS = {"nan": np.nan, "inf": np.inf, "infinity": np.inf}
_PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_GROUPED = {
    ".": re.compile(r"[+-]?[1-9]\d{0,2}([,' \u00a0\u202f]\d{3})+(\.\d*)?", re.ASCII),  # 1,000,000.5
    ",": re.compile(r"[+-]?[1-9]\d{0,2}([.' \u00a0\u202f]\d{3})+(,\d*)?", re.ASCII),  # 1.000.000,5
}
_NO_GROUPS = r"(0\d*{0}\d+|\d*{0}(\d{{1,2}}|\d{{4,}}))"  # a decimal mark and no thousands: 0.123, 4.5, 4.5678
_MS = 1e11  # a time above it is in milliseconds: in seconds, it would be after the year 5000
_SINCE_1970 = 1e8  # a time below it is counted from the start of a run
_NANOSECONDS = 1e9


@dataclass(frozen=True, eq=False)
class Column:
    """The cells of a column as numbers, each [row]. `n_odd` counts cells that are neither a number nor empty."""

    values: Floats
    is_there: Bools
    n_odd: int = 0


def read_numbers(cells: Any, decimal: str = ".") -> Column:
    """Read an Arrow array. Text may have thousands separators, and `decimal` as its decimal mark.

    An empty cell is missing. `NaN` and infinities are values that were logged.
    """
    if pa.types.is_timestamp(cells.type):
        return _convert(cells.cast(pa.timestamp("ns")).cast(pa.int64()), 1 / _NANOSECONDS)
    if pa.types.is_dictionary(cells.type):
        cells = cells.cast(cells.type.value_type)
    if not (pa.types.is_string(cells.type) or pa.types.is_large_string(cells.type)):
        try:
            return _convert(cells.cast(pa.int8()) if pa.types.is_boolean(cells.type) else cells)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # lists, structures, binary data
            return Column(np.full(len(cells), np.nan), np.zeros(len(cells), bool), len(cells) - cells.null_count)
    trimmed = pc.utf8_trim_whitespace(cells)
    trimmed = pc.if_else(pc.equal(trimmed, ""), None, trimmed)
    if decimal == ".":
        try:
            return _convert(trimmed.cast(pa.float64()))
        except pa.ArrowInvalid:
            pass  # some cells are not plain numbers
    read = [_read_number(text, decimal) for text in trimmed.to_pylist()]
    values = np.array([np.nan if number is None else number for number in read], np.float64)
    is_there = np.array([number is not None for number in read], bool)
    n_odd = sum(n is None and not _is_missing(t) for n, t in zip(read, trimmed.to_pylist(), strict=True))
    return Column(values, is_there, n_odd)


def read_texts(cells: Any) -> Any:
    """The cells of an Arrow array as an Arrow array of text. Empty and missing cells are null."""
    try:
        texts = cells.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        texts = pa.chunked_array([pa.array([None if v is None else str(v) for v in cells.to_pylist()], pa.string())])
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)


def is_logged(column: Column) -> Bools:
    """Tell which rows of one run logged a value, [row].

    Some programs fill rows without a value with nan. So nan counts as missing if much of the column is nan between
    numbers. But if the column ends in more nan than between any two numbers, the run diverged, and its last nan counts.
    """
    is_nan = column.is_there & np.isnan(column.values)
    numbers = np.flatnonzero(column.is_there & ~is_nan)
    if not numbers.size or not is_nan.any():
        return column.is_there
    n_between = int(is_nan[: numbers[-1]].sum())
    if n_between < FILLED * (numbers.size + n_between):
        return column.is_there
    bounds = np.concatenate([[-1], numbers])
    longest = max(int(is_nan[start + 1 : stop].sum()) for start, stop in pairwise(bounds))
    is_kept = column.is_there & ~is_nan
    if is_nan[numbers[-1] :].sum() > longest:
        is_kept[np.flatnonzero(is_nan)[-1]] = True
    return is_kept


def make_history(steps: Column, times_s: Floats, metric: Column) -> History:
    """Build the history of a metric from the rows of one run."""
    is_kept = is_logged(metric) & steps.is_there
    return History(steps.values[is_kept], times_s[is_kept], metric.values[is_kept])


def read_times(times: Column | None, n_rows: int) -> tuple[Floats, float]:
    """Return the times of the rows (s) and the start of the run (s), nan if unknown.

    Small times count from the start of the run. Large ones are Unix times, in seconds or milliseconds.
    """
    if times is None or not times.is_there.any():
        return np.full(n_rows, np.nan), float("nan")
    values = np.where(times.is_there, times.values, np.nan)
    largest = float(np.nanmax(np.abs(values), initial=0))
    if largest >= _MS:
        values = values / 1000
    return values, float("nan") if largest >= _SINCE_1970 else 0.0


def check_steps(place: object, name: str, steps: Column) -> None:
    """Raise `RecordError` if most steps are fractions, as epochs or millions of steps are."""
    values = steps.values[steps.is_there & np.isfinite(steps.values)]
    if 2 * int((values != np.floor(values)).sum()) > values.size:
        raise RecordError(
            f"{place}: {name} holds fractions, such as {values[values != np.floor(values)][0]:g}. Steps are whole "
            "numbers: name another column with --step"
        )


def group_rows(keys: Sequence[Any]) -> list[NDArray[np.intp]]:
    """Group rows by columns of text: the rows of each group, in the order in which the groups begin."""
    codes = [np.asarray(pc.fill_null(pc.index_in(key, pc.unique(key)), -1).to_numpy()) for key in keys]
    _, group_r = np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)
    order = np.argsort(group_r.ravel(), kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(group_r.ravel()[order])) + 1)
    return sorted(groups, key=lambda rows: int(rows[0]))


def find_decimal(arrays: Sequence[Any], delimiter: str) -> str:
    """Find the decimal mark of a text table.

    A mark that cannot separate thousands decides: 4.53 or 4,53. Without one, a comma between semicolons is a decimal
    mark, because that is why the program that wrote the table used semicolons. So is the comma of 4,532 beside 2000,
    because a program that separates thousands would have written 2,000.
    """

    def has(number: str) -> bool:
        pattern = rf"^\s*[+-]?{number}([eE][+-]?\d+)?\s*$"
        return any(pc.any(pc.match_substring_regex(cells, pattern)).as_py() for cells in arrays)

    if has(_NO_GROUPS.format(r"\.")):
        return "."
    if has(_NO_GROUPS.format(",")):
        return ","
    is_ungrouped = has(r"\d{4,}") and not has(r"\d*\.\d+")
    return "," if (delimiter == ";" or is_ungrouped) and has(r"\d*,\d+") else "."


def _convert(cells: Any, factor: float = 1.0) -> Column:
    values = cells.cast(pa.float64(), safe=False)
    is_there = np.asarray(values.is_valid().to_numpy(), bool)
    return Column(np.asarray(values.to_numpy(), np.float64) * factor, is_there)


def _is_missing(text: str | None) -> bool:
    return text is None or text.lower() in _MISSING


def _read_number(text: str | None, decimal: str) -> float | None:
    if text is None or _is_missing(text):
        return None
    bare = text.lstrip("+-").lower()
    if bare in _WORDS:
        return -_WORDS[bare] if text.startswith("-") else _WORDS[bare]
    if _GROUPED[decimal].fullmatch(text):
        text = re.sub(r"[.' \u00a0\u202f]" if decimal == "," else r"[,' \u00a0\u202f]", "", text)
    if decimal == ",":
        text = text.replace(",", ".")
    return float(text) if _PLAIN.fullmatch(text) else None
