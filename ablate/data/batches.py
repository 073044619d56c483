"""The tokens of a step: a pure function of (seed, step), so every arm of a seed sees the same ones.

Nothing here has state, so a resumed run needs no position in the data.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.unsignedinteger]
Ids = npt.NDArray[np.int64]
Batch = tuple[Ids, Ids]

_UINT64 = 2**64


def training_batch(tokens: Tokens, seed: int, step: int, batch_size: int, context_length: int) -> Batch:
    """The windows that optimizer step `step` (from 1) trains on: inputs and targets, both [batch_size, context_length].

    Window starts are drawn with replacement by a counter-based generator keyed by (seed, step). Its raw words are
    used because NumPy keeps them the same between versions. A micro-batch is a slice of rows.
    """
    words = np.random.Philox(key=np.array([seed % _UINT64, step], dtype=np.uint64)).random_raw(batch_size)
    starts = words % np.uint64(len(tokens) - context_length)
    return _cut_windows(tokens, starts.astype(np.int64), context_length)


def validation_batches(tokens: Tokens, n_tokens: int, batch_size: int, context_length: int) -> Iterator[Batch]:
    """Fixed windows, evenly spaced over the split and without overlap: inputs and targets, both [<= batch_size, t].

    They hold `n_tokens` targets, rounded down to whole windows: at least one window, at most the whole split. Weight
    batches by their rows, because the last one may be shorter.
    """
    starts = _validation_starts(len(tokens), n_tokens, context_length)
    for first in range(0, len(starts), batch_size):
        yield _cut_windows(tokens, starts[first : first + batch_size], context_length)


def _validation_starts(n_available: int, n_tokens: int, context_length: int) -> Ids:
    n_targets = n_available - 1  # the first token of a split has nothing before it
    n_windows = min(max(n_tokens // context_length, 1), n_targets // context_length)
    return np.arange(n_windows, dtype=np.int64) * (n_targets // n_windows)


def _cut_windows(tokens: Tokens, starts: Ids, context_length: int) -> Batch:
    windows = tokens[starts[:, None] + np.arange(context_length + 1)].astype(np.int64)
    return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])
