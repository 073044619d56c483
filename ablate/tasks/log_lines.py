"""Metrics in the output of a program: JSON lines, and lines that match a pattern.

Blocks without any text that a metric line must have are passed over as a whole, so that a program that prints 100 MB/s
is not slowed down.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from ablate.formatting import quote
from ablate.tasks.pattern_process import Found, PatternProcess
from ablate.tasks.pattern_search import LIMIT_S, MOST_LATE
from ablate.tracking.curve import parse_object

MAX_LINE_BYTES = 2**16  # a longer line is cut
STEP = "step"
STEP_KEYS = (STEP, "_step", "global_step", "iter", "iteration")  # in a JSON line, the first that is there
_JSON_MARKS = (b'step"', b'"iter')  # each step key of a JSON line has one of them
_COLORS = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
_END = re.compile(rb"[\r\n]")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+")

Values = Mapping[str, float | int]


class LineReader:
    """Reads metrics from blocks of output, and from lines that `ablate.log` wrote.

    `wanted` are the names of which a JSON line must have one to count. `remarks` are what a person should know, one of
    each kind. `others` are the names of other numbers at a step. `failure` says why patterns are no longer
    searched for, if they are not.
    """

    def __init__(self, patterns: Sequence[str], wanted: Sequence[str]) -> None:
        self.patterns = patterns
        self.wanted = frozenset(wanted)
        self.remarks: dict[str, str] = {}
        self.others: set[str] = set()
        self.failure = ""
        self.step: int | None = None  # the last one seen in the output
        self._rest = b""
        self._process, self._n_late = PatternProcess(patterns), 0
        marks = [*_JSON_MARKS, *map(find_literal, patterns)]
        # Without a text that a pattern needs, every line has to be searched.
        self._marks = tuple(dict.fromkeys(marks)) if all(marks) else ()

    def read(self, block: bytes, *, is_last: bool = False) -> Iterator[tuple[int, Values]]:
        """(step, values) of each line that has metrics. The last line waits for its end, unless the block `is_last`."""
        content = self._rest + block
        end = len(content) if is_last else max(content.rfind(b"\n"), content.rfind(b"\r")) + 1
        self._rest = content[end:][:MAX_LINE_BYTES]
        lines = content[:end]
        if b"\x1b" in lines:
            lines = _COLORS.sub(b"", lines)  # a color code may be inside the text that is looked for
        texts = [line[:MAX_LINE_BYTES].decode(errors="replace").strip() for line in self._candidates(lines)]
        records = [parse_object(text.encode()) if text.startswith("{") else None for text in texts]
        found = self._search([text for text, record in zip(texts, records, strict=True) if record is None])
        for record in records:
            yield from self._read_groups(next(found)) if record is None else self._read_object(record)

    def close(self) -> None:
        self._process.close()

    def _candidates(self, lines: bytes) -> Iterator[bytes]:
        """The lines that may have metrics."""
        if not self._marks:
            yield from _END.split(lines)
            return
        place, following = 0, {mark: lines.find(mark) for mark in self._marks}
        while found := [at for at in following.values() if at >= 0]:
            first = min(found)
            before = max(lines.rfind(b"\n", place, first), lines.rfind(b"\r", place, first))
            start = max(place, before + 1)
            stop = _END.search(lines, first)
            place = stop.end() if stop else len(lines)
            yield lines[start : stop.start() if stop else place]
            following = {
                mark: at if at < 0 or at >= place else lines.find(mark, place) for mark, at in following.items()
            }

    def _search(self, texts: Sequence[str]) -> Iterator[Found]:
        """What the patterns find in each text."""
        found: Sequence[Found] = [()] * len(texts)
        if self.patterns and texts and not self.failure:
            try:
                found = self._process.search(texts)
            except OSError as error:
                self.failure = (
                    f"the process that searches the output for patterns died: {error.strerror or 'no answer'}"
                )
        for text, groups in zip(texts, found, strict=True):
            late = next((self.patterns[int(part)] for name, part in groups if name is None), None)
            if late is not None:
                self._n_late += 1
                said = f"program.pattern {quote(late)} took more than {LIMIT_S:g} s to search the line {quote(text)}"
                self.remarks.setdefault("late", f"{said}: left out")
                if self._n_late == MOST_LATE:
                    self.failure = f"{said}; write it without a repetition inside of a repetition, such as (a+)+"
            yield () if late is not None else groups

    def _read_groups(self, groups: Found) -> Iterator[tuple[int, Values]]:
        values: dict[str, float | int] = {}
        for name, part in groups:
            assert name is not None
            if (number := self._number(name, str(part))) is not None:
                values[name] = number
            elif name == STEP:
                return  # its values belong to no step that is known
        step = values.pop(STEP, self.step)
        if step is None and values:
            self.remarks.setdefault("no step", f"{', '.join(values)} without a step so far: left out")
        elif step is not None and self._is_step(step):
            self.step = int(step)
            if values:
                yield self.step, values

    def _read_object(self, record: Mapping[str, Any]) -> Iterator[tuple[int, Values]]:
        key = next((key for key in STEP_KEYS if key in record), None)
        if key is None:
            return
        numbers = self._numbers(record, key)
        if self.wanted & record.keys() and self._is_step(record[key]):
            self.step = int(record[key])
            yield self.step, numbers

    def read_logged(self, lines: bytes) -> Iterator[tuple[int, Values]]:
        """(step, values) of each line of `ablate.log`."""
        for line in lines.splitlines():
            record = parse_object(line)
            if record is not None and self._is_step(record.get(STEP)):
                yield int(record[STEP]), self._numbers(record, STEP)

    def _number(self, name: str, text: str) -> float | int | None:
        try:
            if name == STEP and _THOUSANDS.fullmatch(text):
                text = text.replace(",", "")
            return int(text) if name == STEP and text.isdecimal() else float(text)
        except (ValueError, OverflowError):
            self.remarks.setdefault(name, f"{name}: {text[:40]!r} is not a number: left out")
            return None

    def _is_step(self, value: Any) -> bool:
        is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        if is_whole and (isinstance(value, int) or value.is_integer()):
            return True
        self.remarks.setdefault(STEP, f"step {json.dumps(value)[:40]} is not a whole number: left out")
        return False

    def _numbers(self, record: Mapping[str, Any], step_key: str) -> dict[str, float | int]:
        """The numbers of a record. A metric or cost may also be written as text."""
        found: dict[str, float | int] = {}
        for key, value in record.items():
            number = value
            if key in self.wanted and (value is None or isinstance(value, str | bool)):
                number = self._number(key, value if isinstance(value, str) else json.dumps(value))
            if key != step_key and isinstance(number, int | float) and not isinstance(number, bool):
                found[key] = number
        self.others |= found.keys() - self.wanted
        return found


def find_literal(pattern: str) -> bytes:
    """The longest text that every match of a regular expression contains; empty if none is certain."""
    parsed = _parser.parse(pattern)
    if parsed.state.flags & re.IGNORECASE:
        return b""
    runs = [""]
    _collect(parsed, runs)
    return max(runs, key=len).encode()


def _collect(parsed: Any, runs: list[str]) -> None:
    """Append the runs of characters that always follow each other, outside of alternatives and repetitions."""
    for operator, argument in parsed:
        if operator is _constants.LITERAL:
            runs[-1] += chr(argument)
        elif operator is _constants.SUBPATTERN and not argument[1] & re.IGNORECASE:
            runs.append("")
            _collect(argument[3], runs)
            runs.append("")
        elif operator is not _constants.AT:
            runs.append("")
