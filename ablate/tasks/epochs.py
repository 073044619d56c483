"""The rows of a finite data set for each step: a pure function of (seed, step), in shuffled epochs."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

_UINT64 = 2**64
_EPOCHS = 2**63  # keys of epochs are above all steps


def draw_words(seed: int, number: int, n: int) -> Words:
    """Draw 64-bit words by a counter-based generator keyed by (seed, number).

    NumPy keeps raw words the same between versions, which it does not promise for its distributions.
    """
    return np.random.Philox(key=np.array([seed % _UINT64, number % _UINT64], dtype=np.uint64)).random_raw(n)


def pick_rows(seed: int, step: int, n_rows: int, n_total: int) -> Indices:
    """Return the rows of step `step` (from 1): each epoch takes every row once, in an order of its own."""
    places = np.arange((step - 1) * n_rows, step * n_rows)
    epochs, within = np.divmod(places, n_total)
    return np.array([_shuffle(seed, int(e), n_total)[i] for e, i in zip(epochs, within, strict=True)], dtype=np.int64)


@lru_cache(maxsize=2)
def _shuffle(seed: int, epoch: int, n_total: int) -> Indices:
    return np.argsort(draw_words(seed, _EPOCHS + epoch, n_total), kind="stable")
