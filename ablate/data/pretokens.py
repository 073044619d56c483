"""Find places that GPT-2's pre-tokenizer never crosses: a text can be cut there without changing its tokens."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

# A contraction, a word, a number, other characters (each with the space before it), or white space.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

LONG_RUN = 1 << 12
"""Longer runs of one character class bypass the pattern, because its regex engine overflows its stack on runs of some
hundreds of thousands of characters."""

_LETTER, _NUMBER, _SPACE, _OTHER = range(4)
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_CONTRACTION = re.compile("'(?:[sdmt]|ll|ve|re)")


def find_cut(text: str, separator: str) -> int:
    """The last place that neither a pre-token nor the `separator` crosses, whatever text follows, or 0."""
    kinds = _classify(text)
    after_separator = text.rfind(separator) + len(separator) if separator in text else 0
    places = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
    into_space = kinds[places] == _SPACE
    # A space belongs to what follows it, and an apostrophe may. A separator may begin at the very end.
    between = (kinds[places - 1] != _SPACE) & (places <= len(text) - len(separator))
    for place in places[into_space | between][::-1].tolist():
        if place <= after_separator:
            break
        crossed = separator in text[max(place - len(separator) + 1, 0) : place + len(separator) - 1]
        if kinds[place] == _SPACE or not (crossed or text[place - 1] == "'"):
            return int(place)
    return after_separator


def split_runs(text: str) -> Iterator[tuple[str, bool]]:
    """Split a text into (part, is one long pre-token). `PATTERN` can split each of the other parts separately.

    The pre-tokens of all parts are those of the whole text.
    """
    kinds = _classify(text)
    starts = np.flatnonzero(np.concatenate(([True], kinds[1:] != kinds[:-1]))) if len(kinds) else np.array([], int)
    ends = np.append(starts[1:], len(text))
    is_long = ends - starts >= LONG_RUN
    done = 0
    for start, end in zip(starts[is_long].tolist(), ends[is_long].tolist(), strict=True):
        if kinds[start] == _SPACE:
            end -= end < len(text)  # the last white space belongs to what follows
        elif start > done and kinds[start - 1] == _SPACE:
            start -= 1
            if text[start] != " ":  # only a space joins what follows
                yield text[done:start], False
                yield text[start : start + 1], False
                done = start = start + 1
        elif kinds[start] == _LETTER and start > done:
            start = _skip_contraction(text, kinds, start)
        yield text[done:start], False
        yield text[start:end], True
        done = end
    yield text[done:], False


def _skip_contraction(text: str, kinds: npt.NDArray[np.uint8], start: int) -> int:
    """Skip the contraction that an apostrophe before `start` may begin. Returns where the word goes on."""
    joined = start >= 2 and (text[start - 2] == " " or kinds[start - 2] == _OTHER)  # "'" is part of other signs
    found = None if joined else _CONTRACTION.match(text, start - 1)
    return found.end() if found else start


def _classify(text: str) -> npt.NDArray[np.uint8]:
    kinds: npt.NDArray[np.uint8] = _class_table()[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")]
    return kinds


@cache
def _class_table() -> npt.NDArray[np.uint8]:
    """The character class of every code point: [0x110000]."""
    kinds = {"L": _LETTER, "N": _NUMBER}
    table = np.array(
        [kinds.get(unicodedata.category(chr(code))[0], _OTHER) for code in range(sys.maxunicode + 1)], dtype=np.uint8
    )
    table[[ord(sign) for sign in _WHITE_SPACE]] = _SPACE
    return table
