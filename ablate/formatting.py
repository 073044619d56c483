"""Numbers, values and errors as text for people."""

from __future__ import annotations

import re
from itertools import dropwhile

# The second form starts an exception group, whose lines have a margin. Exceptions inside the group are indented more.
_TRACEBACK = re.compile(r"^(?:|  \+ Exception Group )Traceback \(most recent call last\):$", re.MULTILINE)
_MARGIN = "  | "
_OWN_FRAME = re.compile(r"^(\S.*\.py:\d+), in .*\n    (.*)\n(\S.*)$", re.MULTILINE)  # of `ablate_model.own_modules`
_PREFIXES = "kMGTPEZYRQ"


def format_seconds(seconds: float) -> str:
    """`45 s`, `3 min 05 s`, `2 h 10 min`."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def round_digits(number: float, digits: int = 3) -> float:
    """The number rounded to significant digits. Choose a unit after rounding: 999,999 is 1M, not 1000k."""
    return float(f"{number:.{digits}g}")


def format_number(number: float, digits: int = 3) -> str:
    """`0.0123`, `950`, `12300`: significant digits, without an exponent for large numbers."""
    rounded = round_digits(number, digits)
    return f"{rounded:.0f}" if abs(rounded) >= 10**digits else f"{rounded:.{digits}g}"


def format_count(number: float) -> str:
    """`950`, `12.3k`, `4.56M`, `1.2G`: three digits and the SI prefix."""
    rounded = round_digits(number)
    for power in range(len(_PREFIXES), 0, -1):
        if abs(rounded) >= 10.0 ** (3 * power):
            return f"{format_number(rounded / 10.0 ** (3 * power))}{_PREFIXES[power - 1]}"
    return format_number(rounded)


def quote(value: object, limit: int = 120) -> str:
    """The `repr` of a value for a message. A long one is cut in the middle."""
    text = repr(value)
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}...{text[-limit // 4 :]} ({len(text):,} characters)"


def count(n: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def name_error(text: str) -> str:
    """An error in one line: the exception of the last traceback in the text, or the text's last line.

    A message of several lines is cut to its first line, because the last ones are often hints. The second line is kept
    if the first one ends in a colon. An error in a user's file keeps the last line of that file.
    """
    own = [*_OWN_FRAME.finditer(text)] if "Traceback" not in text else ()
    if own:
        place, line, error = own[-1].groups()
        return f"{place}: {line}: {error}"
    *before, last = _TRACEBACK.split(text)
    lines = [line for line in (line.removeprefix(_MARGIN).rstrip() for line in last.splitlines()) if line]
    after_frames = dropwhile(lambda line: line[0].isspace(), lines) if before else ()
    first, *more = [*after_frames] or lines[-1:] or [""]
    return " ".join(map(str.strip, (first, *more[: first.endswith(":")])))
