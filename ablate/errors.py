"""Errors that a person can act on. The CLI prints each as one message and never shows a traceback for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ablate.formatting import quote

MOST_SHOWN = 100  # legal values in a message
LONGEST_WORD = 200  # characters of a word that may be a misspelt one


class AblateError(Exception):
    """A problem with one clear message. `exit_code` is what the CLI ends with."""

    exit_code = 2


class GridError(AblateError):
    """The grid, or a value in it, cannot be used. The message names the file, the line and the key."""


class DataError(AblateError):
    """The corpus is missing, unreadable, or too short for what was asked."""


class ResourceError(AblateError):
    """The cluster, the disk or the device lacks what was asked for."""


class FailedRunsError(AblateError):
    """Runs failed of which the rest needs the results."""

    exit_code = 1


class RecordError(AblateError):
    """What a run left behind is missing or cannot be read."""


def suggest(wrong: object, legal: Iterable[object]) -> str:
    """The end of a message about a wrong word: the nearest spelling, and the legal values."""
    values = [str(value) for value in legal]
    word = str(wrong)
    near = difflib.get_close_matches(word, values, n=1, cutoff=0.6) if len(word) <= LONGEST_WORD else []
    hint = f"; did you mean {quote(near[0])}?" if near else ""
    more = f", and {len(values) - MOST_SHOWN:,} more" if len(values) > MOST_SHOWN else ""
    return f"{hint} (legal: {', '.join(values[:MOST_SHOWN])}{more})" if values else hint
