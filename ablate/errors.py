"""Errors that a user can act on. The CLI prints each as one message, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ablate.formatting import quote

MOST_SHOWN = 100  # legal values in one message
LONGEST_WORD = 200  # characters; no suggestion is made for a longer word


class AblateError(Exception):
    """A problem with one clear message. The CLI exits with `exit_code`."""

    exit_code = 2


class GridError(AblateError):
    """The grid, or a value in it, cannot be used. The message names the file, the line and the key."""


class DataError(AblateError):
    """The corpus is missing, unreadable, or too short."""


class ResourceError(AblateError):
    """The cluster, the disk or the device does not have what was asked for."""


class FailedRunsError(AblateError):
    """Runs failed, and later steps need their results."""

    exit_code = 1


class RecordError(AblateError):
    """A record of a run or study is missing or cannot be read."""


def suggest(wrong: object, legal: Iterable[object]) -> str:
    """The end of a message about a wrong word: the nearest legal value, then all of them."""
    values = [str(value) for value in legal]
    word = str(wrong)
    near = difflib.get_close_matches(word, values, n=1, cutoff=0.6) if len(word) <= LONGEST_WORD else []
    hint = f"; did you mean {quote(near[0])}?" if near else ""
    more = f", and {len(values) - MOST_SHOWN:,} more" if len(values) > MOST_SHOWN else ""
    return f"{hint} (legal: {', '.join(values[:MOST_SHOWN])}{more})" if values else hint
