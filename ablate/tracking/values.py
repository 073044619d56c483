"""The values in records: levels, and numbers that can be measurements."""

from __future__ import annotations

import re
from typing import Any

Value = Any  # a level: text, a number, a boolean, or None

LARGEST = 1e100  # measured number: beyond float32 and any budget, and its square still fits into float64
MAX_COUNT = 2**53  # of steps, tokens, parameters: integers up to it are exact in float64
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # 007 stays text
_TRUTH = {"true": True, "false": False}


def is_number(value: Any) -> bool:
    """Tell whether it is a number that can be a measurement."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def read_number(text: str) -> int | float | None:
    """Read a decimal number, as an integer if it is whole: `1e-3` is 0.001, `42.0` is 42. None for other text."""
    text = text.strip()
    if not _NUMBER.fullmatch(text) or abs(value := float(text)) > LARGEST:
        return None
    if text.lstrip("+-").isdecimal():
        return int(text)
    return int(value) if value.is_integer() and abs(value) <= MAX_COUNT else value


def read_level(text: str) -> Value:
    """Read a level: a boolean, a number, or the text itself."""
    if (truth := _TRUTH.get(text.strip().lower())) is not None:
        return truth
    number = read_number(text)
    return text if number is None else number
