"""Several corpora, one after another: when each phase ends, and the identity of the sequence."""

from __future__ import annotations

import bisect
import hashlib
import json
from collections.abc import Sequence

from ablate.errors import DataError

Lengths = tuple[int | None, ...]  # the steps of each phase; None for an equal share of the steps that are left


def find_ends(lengths: Sequence[int | None], n_steps: int) -> tuple[int, ...]:
    """The last step of each phase. Shares that are no whole number of steps are rounded.

    Raises `DataError` if the phases do not have `n_steps` steps together, or if one has none.
    """
    given = sum(length or 0 for length in lengths)
    n_open = sum(length is None for length in lengths)
    left = n_steps - given
    if left < n_open or (left and not n_open):
        sizes = " + ".join("a share" if length is None else f"{length:,}" for length in lengths)
        legal = f"at least {given + n_open:,}" if n_open else f"{given:,}"
        raise DataError(f"data.sequence: {sizes} steps do not fit {n_steps:,} steps of training (legal: {legal})")
    ends, end, n_seen = [], 0, 0
    for length in lengths:
        if length is None:
            n_seen += 1
            end += n_seen * left // n_open - (n_seen - 1) * left // n_open
        else:
            end += length
        ends.append(end)
    return tuple(ends)


def phase_of(step: int, ends: Sequence[int]) -> int:
    """The phase of a step (from 1), counted from 0. Steps after the last end belong to the last phase."""
    return min(bisect.bisect_left(ends, step), len(ends) - 1)


def hash_sequence(hashes: Sequence[str], lengths: Lengths) -> str:
    """The identity of a sequence of corpora."""
    return hashlib.sha256(json.dumps(["sequence", [*zip(hashes, lengths, strict=True)]]).encode()).hexdigest()
