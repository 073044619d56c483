"""Where GPT-2's pre-tokenizer cannot reach across, so that a text may be cut there without changing its tokens."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

# A contraction, a word, a number, other signs (each with the space before it), or white space.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

LONG_RUN = 1 << 12
"""Characters of one class in a row that do not go through the pattern: its regex engine overflows its stack on some
hundreds of thousands."""

_LETTER, _NUMBER, _SPACE, _OTHER = range(4)
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_CONTRACTION = re.compile("'(?:[sdmt]|ll|ve|re)")


def find_cut(text: str, separator: str) -> int:
    """The last place that neither a pre-token nor the `separator` crosses, whatever follows the text; 0 without one."""
    kinds = _classify(text)
    after_separator = text.rfind(separator) + len(separator) if separator in text else 0
    places = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
    into_space = kinds[places] == _SPACE
    # A space belongs to what follows it, and so may an apostrophe. A separator may have begun at the very end.
    between = (kinds[places - 1] != _SPACE) & (places <= len(text) - len(separator))
    for place in places[into_space | between][::-1].tolist():
        if place <= after_separator:
            break
        crossed = separator in text[max(place - len(separator) + 1, 0) : place + len(separator) - 1]
        if kinds[place] == _SPACE or not (crossed or text[place - 1] == "'"):
            return int(place)
    return after_separator


def split_runs(text: str) -> Iterator[tuple[str, bool]]:
    """The text in parts, and whether each is one long pre-token. The others may be split by `PATTERN`, each by itself.

    Joined, the pre-tokens of the parts are those of the whole text.
    """
    kinds = _classify(text)
    starts = np.flatnonzero(np.concatenate(([True], kinds[1:] != kinds[:-1]))) if len(kinds) else np.array([], int)
    ends = np.append(starts[1:], len(text))
    is_long = ends - starts >= LONG_RUN
    done = 0
    for start, end in zip(starts[is_long].tolist(), ends[is_long].tolist(), strict=True):
        if kinds[start] == _SPACE:
            end -= end < len(text)  # the last white space is left to what follows
        elif start > done and kinds[start - 1] == _SPACE:
            start -= 1
            if text[start] != " ":  # only a space joins what follows; other white space stands by itself
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
    """Where a word that begins at `start` goes on behind the contraction that an apostrophe before it may make."""
    joined = start >= 2 and (text[start - 2] == " " or kinds[start - 2] == _OTHER)  # the apostrophe is part of a sign
    found = None if joined else _CONTRACTION.match(text, start - 1)
    return found.end() if found else start


def _classify(text: str) -> npt.NDArray[np.uint8]:
    kinds: npt.NDArray[np.uint8] = _class_table()[np.frombuffer(text.encode("utf-32-le"), dtype="<u4")]
    return kinds


@cache
def _class_table() -> npt.NDArray[np.uint8]:
    """The class of every code point: [0x110000]."""
    kinds = {"L": _LETTER, "N": _NUMBER}
    table = np.array(
        [kinds.get(unicodedata.category(chr(code))[0], _OTHER) for code in range(sys.maxunicode + 1)], dtype=np.uint8
    )
    table[[ord(sign) for sign in _WHITE_SPACE]] = _SPACE
    return table
