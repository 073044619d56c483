"""The importance of each setting for being among the best trials, with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.analysis.importance import rate_axes

N_RESAMPLES = 50
LEVEL = 0.95


@dataclass(frozen=True)
class SettingImportance:
    """PED-ANOVA's share (0 to 1) of a setting over `n` trials, with the range `low` to `high` over resampled trials."""

    path: str
    importance: float
    low: float
    high: float
    n: int


def rate_settings(settings: Sequence[Mapping[str, Any]], losses: Sequence[float]) -> list[SettingImportance]:
    """Rate the settings by importance for a low loss, with the 95 % range over bootstrap resamples of the trials.

    Returns an empty list where there are too few trials. The result is deterministic.
    """
    rated = rate_axes(settings, losses)
    if not rated:
        return []
    draw = np.random.default_rng(0)
    shares: dict[str, list[float]] = {row.axis: [] for row in rated}
    for _ in range(N_RESAMPLES):
        chosen = draw.integers(len(losses), size=len(losses))
        again = {
            row.axis: row.importance for row in rate_axes([settings[i] for i in chosen], [losses[i] for i in chosen])
        }
        for axis, values in shares.items():
            values.append(again.get(axis, 0.0))
    ends = {axis: np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) for axis, values in shares.items()}
    return [
        SettingImportance(row.axis, row.importance, float(ends[row.axis][0]), float(ends[row.axis][1]), row.n)
        for row in rated
    ]
