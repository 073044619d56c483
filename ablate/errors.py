"""Errors that a person can act on. The CLI prints each as one message and never shows a traceback for them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
    """The end of a message about a wrong word: the nearest spelling, and all the legal values."""
    values = [str(value) for value in legal]
    near = difflib.get_close_matches(str(wrong), values, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{hint} (legal: {', '.join(values)})" if values else hint
