"""How the error rate of a campaign is divided among its tries, however many there will be."""

from __future__ import annotations

import math

import numpy as np

from ablate.analysis.power import MOST_SEEDS, find_detectable

RATE = 0.05  # of a whole campaign


def level_of(k: int) -> float:
    """Return the error rate of try number `k`, from 1: 0.05 x 6 / (pi^2 k^2). Over all k, the rates add up to 0.05."""
    return RATE * 6 / (math.pi * k) ** 2


def seeds_for(effect: float, sd: float, alpha: float) -> int | None:
    """Return the fewest seeds with which a paired t test of one arm at `alpha` finds an effect in 80 % of studies.

    `sd` is the standard deviation of a paired difference. None if 10,000 seeds are not enough.
    """
    low, high = 2, MOST_SEEDS
    if not _finds(effect, sd, high, alpha):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _finds(effect, sd, middle, alpha) else (middle + 1, high)
    return low


def _finds(effect: float, sd: float, n_seeds: int, alpha: float) -> bool:
    detectable = find_detectable(np.asarray(sd / np.sqrt(n_seeds)), np.asarray(n_seeds - 1.0), 1 - alpha)
    return bool(detectable <= effect)
