"""Numbers and errors as people read them."""

from __future__ import annotations

import re
from itertools import dropwhile

# The second is an exception group's, whose lines have a margin; those of the exceptions in it stand further right.
_TRACEBACK = re.compile(r"^(?:|  \+ Exception Group )Traceback \(most recent call last\):$", re.MULTILINE)
_MARGIN = "  | "


def format_seconds(seconds: float) -> str:
    """`45 s`, `3 min 05 s`, `2 h 10 min`."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def format_count(number: float) -> str:
    """`950`, `12.3k`, `4.56M`, `1.2G`: three digits and the SI prefix."""
    for limit, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.3g}{unit}"
    return f"{number:.3g}"


def count(n: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def name_error(text: str) -> str:
    """An error in one line: the exception of the last traceback in the text, or the text's last line without any.

    Of a message of several lines that is the first, as the last are often hints; with the second, where the first ends
    in a colon.
    """
    *before, last = _TRACEBACK.split(text)
    lines = [line for line in (line.removeprefix(_MARGIN).rstrip() for line in last.splitlines()) if line]
    after_frames = dropwhile(lambda line: line[0].isspace(), lines) if before else ()
    first, *more = [*after_frames] or lines[-1:] or [""]
    return " ".join(map(str.strip, (first, *more[: first.endswith(":")])))
