"""Searches lines of output for regular expressions, in a process of its own.

A search may take longer than anyone can wait: `(a+)+b` needs 2^n steps for n characters. Python cannot interrupt one
outside of a main thread, and meanwhile no other thread of the process runs. So a worker starts this file as a script,
which limits every search and says which one took too long. Only the standard library, because this starts with runs.

The first line of the input is a JSON list of patterns, and each later one a JSON list of texts. Each list of texts is
answered by a JSON line: for each text a list of [group, text], or of [null, index of the pattern] for a search that
took too long.
"""

import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

MAX_SEARCHED = 2**13  # characters of a line that patterns search
LIMIT_S = 0.25  # of CPU time for one search, which usually takes a microsecond
MOST_LATE = 3  # searches may take too long before the rest is left out: the program that prints waits meanwhile
_NO_DIGITS = re.compile(r"[+-]?(?<![A-Za-z0-9_])(?:nan|inf(?:inity)?)(?!\w)|(?<=\d)e[+-]?\d+", re.IGNORECASE)
_REST_OF_NUMBER = re.compile(r"(?:\.?\d+)?(?:[eE][+-]?\d+)?")


class SearchTimeoutError(Exception):
    """A search that reached its limit."""


def find_groups(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, str]]:
    """The name and text of each group of a pattern that is in the text.

    Most patterns are written for the numbers of a healthy run. So where a pattern is not found, `nan`, `inf` and
    exponents may stand for digits, and a number that goes on where the pattern ends, as 9.9e-05 does behind `[\\d.]+`,
    is read whole.
    """
    found = pattern.search(text, 0, MAX_SEARCHED)
    if found is None and _NO_DIGITS.search(text, 0, MAX_SEARCHED):
        found = pattern.search(_NO_DIGITS.sub(lambda word: "0" * len(word[0]), text), 0, MAX_SEARCHED)
    if found is None:
        return
    for name in pattern.groupindex:
        start, end = found.span(name)
        if start >= 0 and end == found.end() and text[start:end][-1:].isdigit():
            end = _REST_OF_NUMBER.match(text, end).end()  # type: ignore[union-attr]
        if start >= 0:
            yield name, text[start:end]


class LimitedSearch:
    """Searches texts. Each search of a pattern ends after one to two times `limit_s` of CPU time.

    Only for a main thread, because a timer's signal ends the search.
    """

    def __init__(self, patterns: Sequence[str], limit_s: float = LIMIT_S) -> None:
        self.patterns = [re.compile(pattern) for pattern in patterns]
        self._n_searches, self._seen, self._n_late = 0, -1, 0
        signal.signal(signal.SIGVTALRM, self._tick)
        signal.setitimer(signal.ITIMER_VIRTUAL, limit_s, limit_s)  # one timer for all is cheaper than one per search

    def _tick(self, _signal: int, _frame: FrameType | None) -> None:
        is_late, self._seen = self._n_searches == self._seen, self._n_searches
        if is_late and self._n_searches % 2:
            self._n_searches += 1
            raise SearchTimeoutError

    def search(self, text: str) -> list[tuple[str | None, str | int]]:
        """The groups of all patterns that are in a text."""
        found: list[tuple[str | None, str | int]] = []
        for index, pattern in enumerate(self.patterns if self._n_late < MOST_LATE else ()):
            try:
                self._n_searches += 1  # odd while a search is at work
                groups = [*find_groups(pattern, text)]
                self._n_searches += 1
                found += groups
            except SearchTimeoutError:
                self._n_late += 1
                found.append((None, index))
        return found


def main() -> None:
    search = LimitedSearch(json.loads(sys.stdin.buffer.readline()))
    for request in sys.stdin.buffer:
        answer = json.dumps([search.search(text) for text in json.loads(request)])
        sys.stdout.buffer.write(answer.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
